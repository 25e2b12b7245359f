"""A directory for PYTHONPATH: its sitecustomize.py starts `noria run` in a Python process.

It is no package to import from.
"""
