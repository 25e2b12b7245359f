"""`noria top`: options and output; `noria.sight.top` has the views.

May import everything but the packages of other commands.
"""
