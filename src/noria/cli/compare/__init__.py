"""`noria compare`, `noria compare files`, `noria compare loops`: measurements as tables and a page.

May import everything but the packages of other commands.
"""
