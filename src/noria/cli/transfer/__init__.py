"""`noria get` and `noria put`: their options, their progress and their exit status.

May import everything but the packages of other commands.
"""
