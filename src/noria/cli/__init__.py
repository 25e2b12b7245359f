"""The `noria` command: `main` lists the commands, each a module or a package here.

May import everything; nothing imports it.
"""
