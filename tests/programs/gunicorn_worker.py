"""gunicorn's worker for ASGI, on noria's loop: the class that a user of gunicorn would write."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class NoriaWorker(UvicornWorker):
    """uvicorn's worker with its loop option set."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": "noria:new_event_loop", "http": "auto"}
