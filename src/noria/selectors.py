"""noria.selector: the models behind the interface of the standard library's selectors."""

from __future__ import annotations

import selectors
import time
from collections.abc import Mapping
from typing import Any, cast

from noria import models
from noria._core.loop import Loop
from noria._core.watcher import Watcher
from noria.errors import Unsupported

# The models with a call that waits for several descriptors.
SELECTORS = tuple(
    name for name in models.MODELS if models.info(name).capabilities["readiness"] == "native"
)

MAX_EVENTS = 1024  # that a model takes from the kernel in one wait; epoll has the smallest limit


def selector(model: str = "auto") -> selectors.BaseSelector:
    """A selectors.BaseSelector on a model: select, poll, epoll, epoll-edge, io_uring or auto.

    ``epoll-edge`` reports each change once: read until BlockingIOError.
    Raises Unsupported for a model that cannot watch readiness, UnknownModel, ModelUnavailable.
    """
    made = models.make(model)
    if made.capability("readiness") != "native":
        name = made.name
        made.close()
        raise Unsupported(
            f"the model {name!r} cannot be a selector: it has no call that waits for several "
            f"descriptors. Use {', '.join(SELECTORS[:-1])} or {SELECTORS[-1]}"
        )
    return (KernelSelector if hasattr(made, "fileno") else ModelSelector)(Loop(made))


class _Found:
    """The callback of a watcher: records that its descriptor is ready."""

    def __init__(self, selector: ModelSelector, fd: int):
        self.selector = selector
        self.fd = fd

    def __call__(self, mask: int) -> None:
        found = self.selector.found
        found[self.fd] = found.get(self.fd, 0) | mask


class ModelSelector(selectors._BaseSelectorImpl):
    """A selector on a model; the standard class manages the keys."""

    def __init__(self, loop: Loop):
        super().__init__()
        self.loop = loop
        self.found: dict[int, int] = {}
        self._watchers: dict[int, Watcher] = {}
        # The keys of the standard class, which has no public method to replace one.
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
            # A signal or the model itself ended the wait: wait for the remaining time.
            if end is not None:
                timeout = end - time.monotonic()
                if timeout <= 0:
                    return ready

    def _gather(self) -> None:
        """Wait again, without a timeout, after a wait that has returned MAX_EVENTS events."""
        seen = 0
        while len(self.found) - seen >= MAX_EVENTS and len(self.found) < len(self._keys):
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
    """A selector on a model that has a descriptor: epoll or io_uring."""

    def fileno(self) -> int:
        """The epoll or ring descriptor, -1 once closed."""
        return int(cast(Any, self.loop.model).fileno())
