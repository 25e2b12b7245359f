"""noria.selector: any readiness model behind the standard library's selectors interface."""

from __future__ import annotations

import selectors
import time
from collections.abc import Mapping
from typing import Any, cast

from noria import models
from noria._core.loop import Loop
from noria._core.watcher import Watcher
from noria.errors import Unsupported

SELECTORS = ("select", "poll", "epoll", "epoll-edge", "io_uring")

LOAD = 1024  # the least number of events that a model with a limit takes from the kernel at once


def selector(model: str = "auto") -> selectors.BaseSelector:
    """A selectors.BaseSelector on a model: select, poll, epoll, epoll-edge, io_uring or auto.

    ``epoll-edge`` tells of a change once, not for as long as it lasts: read until BlockingIOError.
    Raises Unsupported for a model that cannot watch readiness, UnknownModel, ModelUnavailable.
    """
    made = models.make(model)
    if made.name not in SELECTORS:
        name = made.name
        made.close()
        raise Unsupported(
            f"the model {name!r} cannot be a selector: it has no call that waits for several "
            f"descriptors. Use {', '.join(SELECTORS[:-1])} or {SELECTORS[-1]}"
        )
    return (KernelSelector if hasattr(made, "fileno") else ModelSelector)(Loop(made))


class _Found:
    """A watcher's callback: notes that its key is ready."""

    def __init__(self, owner: ModelSelector, fd: int):
        self.owner = owner
        self.fd = fd

    def __call__(self, mask: int) -> None:
        self.owner.found[self.fd] = self.owner.found.get(self.fd, 0) | mask


class ModelSelector(selectors._BaseSelectorImpl):
    """The standard bookkeeping of keys, over one of noria's models."""

    def __init__(self, loop: Loop):
        super().__init__()
        self.loop = loop
        self.found: dict[int, int] = {}
        self._watchers: dict[int, Watcher] = {}
        # What the standard class keeps its keys in: it has no public way to replace one.
        self._keys: dict[int, selectors.SelectorKey] = vars(self)["_fd_to_key"]

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.loop.model.name)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        try:
            watcher = Watcher(self.loop.model, key.fd, _Found(self, key.fd))
            watcher.watch(events)
        except BaseException:
            super().unregister(fileobj)
            raise
        self._watchers[key.fd] = watcher
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self._watchers.pop(key.fd).close()
        self.found.pop(key.fd, None)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self.get_key(fileobj)
        if events == key.events:
            if data != key.data:
                key = key._replace(data=data)
                self._keys[key.fd] = key
            return key
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        end = None if timeout is None else time.monotonic() + timeout
        self.found.clear()
        while True:
            self.loop.run_once(timeout)
            self._gather()
            ready = []
            for fd, mask in self.found.items():
                key = self._keys.get(fd)
                if key is not None and mask & key.events:
                    ready.append((key, mask & key.events))
            if ready:
                return ready
            # A signal, or something of the model's own, ended the wait: go on with what is left.
            if end is not None:
                timeout = end - time.monotonic()
                if timeout <= 0:
                    return ready

    def _gather(self) -> None:
        """A model tells of so many at a time: where it told of a full load, there may be more."""
        seen = 0
        while len(self.found) - seen >= LOAD and len(self.found) < len(self._keys):
            seen = len(self.found)
            self.loop.run_once(0)

    def close(self) -> None:
        if self.loop.closed:
            return
        for watcher in self._watchers.values():
            watcher.close()
        self._watchers.clear()
        self.loop.close()
        super().close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return super().get_map()


class KernelSelector(ModelSelector):
    """One whose model has a descriptor of its own in the kernel."""

    def fileno(self) -> int:
        """The epoll or ring descriptor, -1 once closed."""
        return int(cast(Any, self.loop.model).fileno())
