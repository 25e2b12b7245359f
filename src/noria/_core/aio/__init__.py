"""The compiled part of the asyncio event loop: what runs once for every call and message."""
