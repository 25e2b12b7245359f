"""A gunicorn ASGI worker on noria's loop, as a user of gunicorn would write it."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class NoriaWorker(UvicornWorker):
    """uvicorn's worker with its loop option set."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": "noria:new_event_loop", "http": "auto"}
