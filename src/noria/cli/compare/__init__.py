"""`noria compare` and `noria compare files`: measurements as tables and a page.

May import everything but the packages of other commands.
"""
