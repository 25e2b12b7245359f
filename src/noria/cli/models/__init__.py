"""`noria models`: the I/O models in tables, and a page for each.

May import everything but the packages of other commands.
"""
