"""``--threshold NAME=VALUE``: from where on something is a finding."""

import os
from typing import Any

import click


def _set_environment(
    ctx: click.Context, param: click.Parameter, changes: tuple[str, ...]
) -> tuple[str, ...]:
    """Check the values, and add them to the environment variable that child processes read, too."""
    if not changes and "NORIA_THRESHOLDS" not in os.environ:
        return changes
    from noria.sight.findings.thresholds import VARIABLE, Thresholds

    try:
        Thresholds.from_environment(os.environ, changes)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if changes:
        os.environ[VARIABLE] = ",".join([os.environ.get(VARIABLE, ""), *changes]).strip(",")
    return changes


def threshold_option(command: Any) -> Any:
    """Add the option ``--threshold``, which changes NORIA_THRESHOLDS of this process."""
    return click.option(
        "--threshold",
        metavar="NAME=VALUE",
        multiple=True,
        expose_value=False,
        callback=_set_environment,
        help="Change from where on something is a finding: block=50ms, slow-client=5s "
        "(also in NORIA_THRESHOLDS, separated by commas).",
    )(command)
