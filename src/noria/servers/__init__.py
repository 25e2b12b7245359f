"""Servers: listening sockets with an asyncio protocol, in one process or several.

May import `noria.reactor`, `noria.net`, `noria.models`, `noria.errors` and `noria._core`.
"""
