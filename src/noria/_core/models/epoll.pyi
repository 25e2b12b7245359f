from typing import Self

from noria._core.contract import Model

class Epoll(Model):
    def __new__(cls, edge: bool = False) -> Self: ...
    def fileno(self) -> int: ...
