"""The options of `noria run`, as they are passed to the program in the environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from noria.sight.settings import Settings

VARIABLE = "NORIA_RUN"


@dataclass
class RunOptions:
    """The options; paths are absolute."""

    pid: int  # of the program; its child processes have others
    prefix: str  # sys.prefix of the Python that it runs in
    model: str
    watch: bool
    record: str | None
    metrics: tuple[str, int] | None  # host and port
    max_block: float  # seconds
    buffer: int  # bytes
    findings: bool
    json: bool
    dump_signal: int  # 0: none
    dump_dir: str
    dump_on_block: bool

    def encode(self) -> str:
        """Return the value of the environment variable."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> RunOptions:
        """Undo `encode`. Raises ValueError or TypeError."""
        return cls(**json.loads(text))

    @property
    def is_program(self) -> bool:
        """Whether this process is the program itself, not a child of it."""
        return os.getpid() == self.pid

    @property
    def needs_agent(self) -> bool:
        """Whether the loops are to be watched, for any purpose."""
        return self.watch or self.record is not None or self.metrics is not None

    def settings(self) -> Settings:
        """Return the agent's settings."""
        # The figures of worker processes are read through their sockets.
        socket = self.watch or self.metrics is not None
        return Settings(max_block=int(self.max_block * 1e9), buffer=self.buffer, socket=socket)
