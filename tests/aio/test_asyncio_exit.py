"""The end of an interpreter whose modules still refer to open transports."""

from __future__ import annotations

from support.loops import MODELS
from support.running import finish, start

KEEP_TRANSPORTS = """
    import asyncio, ctypes, sys
    import noria

    async def connect():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        made = [(await loop.create_connection(asyncio.Protocol, *address))[0] for _ in range(2)]
        server.close()
        return made

    kept = []
    for model in sys.argv[1:]:
        loop = noria.new_event_loop(model)
        kept += loop.run_until_complete(connect())
        loop.close()
    assert not any(transport.is_closing() for transport in kept)
    # As C code may do: a reference that is never dropped. This module's globals are then freed
    # last, after those of the other modules and the builtins were cleared.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(sys.modules[__name__]))
"""


def test_transports_that_a_module_keeps_open_print_nothing_at_exit() -> None:
    # The default filters: a ResourceWarning is ignored.
    process = start(KEEP_TRANSPORTS, *MODELS, PYTHONWARNINGS="", PYTHONDEVMODE="")
    assert finish(process) == (0, "", "")
