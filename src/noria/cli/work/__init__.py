"""``noria work``: runs the handlers of a bus, in one process or several.

May import the bus, the supervisor of `servers`, and what the commands share.
"""
