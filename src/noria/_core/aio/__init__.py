"""The compiled part of the asyncio event loop: the code that runs for each call and message.

May import noria._core.
"""
