"""Sizes in bytes as people write them."""

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # generic for the type checker; not at run time in click before 8.3
    _Size = click.ParamType[int]
else:
    _Size = click.ParamType

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


class Size(_Size):
    """A number of bytes: 1048576, 1MiB, 1M (as 1MiB), 1.5GB (1000s)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes, or wrong use."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if not found:
            self.fail(f"{value!r} is not a size; write 500M, 1.5GiB, or bytes.", param, ctx)
        number, unit, binary = found.groups()
        thousand = 1000 if unit and not binary and value.strip().lower().endswith("b") else 1024
        size = int(float(number) * thousand ** " kmgt".index(unit.lower() or " "))
        if size < 1:
            self.fail(f"{value!r} is less than a byte.", param, ctx)
        return size
