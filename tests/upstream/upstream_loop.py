"""Put noria's event loop where asyncio's own is made, in this process and in those that it starts.

A .pth file of the suites' virtual environment imports this module in each Python that starts there.
It does nothing unless NORIA_UPSTREAM_MODEL is set:

    NORIA_UPSTREAM_MODEL=asyncio    asyncio's own loop: what the suites are compared with
    NORIA_UPSTREAM_MODEL=epoll      noria's on this model (`auto`: the default one)
    NORIA_UPSTREAM_UVLOOP=1         uvloop's names make that loop too, for uvloop's own suite
"""

import asyncio
import os
import types
import warnings


def install(model: str) -> None:
    """Replace asyncio's names for its loop and its policy by noria's on `model`."""
    import noria
    from noria.aio import loop

    # noria's class calls its base class by the name that is replaced here.
    names = types.ModuleType("asyncio")
    names.__dict__.update(vars(asyncio))
    loop.asyncio = names

    class Meta(type(noria.EventLoop)):
        def __instancecheck__(cls, instance):
            return super().__instancecheck__(instance) or (
                cls is Loop and isinstance(instance, noria.EventLoop)
            )

    class Loop(noria.EventLoop, metaclass=Meta):
        def __new__(cls, selector=None):
            # noria's own class, unless the program made a class of its own of this one.
            return noria.EventLoop(model) if cls is Loop else super().__new__(cls)

        def __init__(self, selector=None):
            super().__init__(model)

    class Policy(noria.EventLoopPolicy):
        def __init__(self):
            super().__init__(model)

    asyncio.SelectorEventLoop = Loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = Loop
    # asyncio makes a policy of this name when the program has set None.
    asyncio.DefaultEventLoopPolicy = Policy
    asyncio.set_event_loop_policy(Policy())


def replace_uvloop() -> None:
    """Make uvloop's names stand for the loop that asyncio's names make.

    The suite's test cases for uvloop then expect what those for asyncio expect.
    """
    import uvloop
    from uvloop import _testbase

    uvloop.new_event_loop = asyncio.new_event_loop
    uvloop.Loop = asyncio.SelectorEventLoop
    uvloop.EventLoopPolicy = asyncio.DefaultEventLoopPolicy
    _testbase.UVTestCase.implementation = "asyncio"
    _testbase.BaseTestCase.is_asyncio_loop = lambda self: True


_model = os.environ.get("NORIA_UPSTREAM_MODEL")
if _model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # policies, from Python 3.14 on
        if _model != "asyncio":
            install(_model)
        if os.environ.get("NORIA_UPSTREAM_UVLOOP"):
            replace_uvloop()
