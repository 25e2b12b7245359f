"""The compiled core: models, loop, channels. Imports nothing of noria but `noria.errors`.

Importing anything below loads `contract` first. It refuses to run without the GIL, and if it is not
there, the other compiled modules are not either.
"""

try:
    import noria._core.contract  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "noria._core.contract":
        raise
    from noria._core.interpreter import explain_missing_modules

    raise ImportError(explain_missing_modules(__path__), name=error.name) from None
