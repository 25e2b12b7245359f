"""`noria run`: any asyncio program on noria's loop, watched.

May import everything but the packages of other commands.
"""
