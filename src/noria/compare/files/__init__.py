"""`noria compare files`: the path of a file's bytes from the process to the device, measured.

Imports report, measure, and noria.files's engines to count their calls.
"""
