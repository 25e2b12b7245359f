"""The compiled core: the contract, the loop and the channels. Imports `noria.errors` only.

Importing any module of this package loads `contract` first: it raises ImportError without the GIL,
and if it was not compiled, neither were the others.
"""

try:
    import noria._core.contract  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "noria._core.contract":
        raise
    from noria._core.interpreter import explain_missing_modules

    raise ImportError(explain_missing_modules(__path__), name=error.name) from None
