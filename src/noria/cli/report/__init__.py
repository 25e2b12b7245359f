"""`noria report`: options and output; `noria.sight.report` has the page, the text and the traces.

May import everything but the packages of other commands.
"""
