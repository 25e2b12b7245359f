"""``noria events``: looks at a broker's events, emits some, replays dead letters.

May import the bus, and what the commands share.
"""
