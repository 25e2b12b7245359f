"""The errors that noria raises of its own. Each says what was wrong and what to do instead."""


class NoriaError(Exception):
    """Base of noria's own errors."""


class UnknownModel(NoriaError, ValueError):
    """No model has this name."""


class ModelUnavailable(NoriaError, OSError):
    """The machine refuses this model (seccomp, sysctl, an old kernel, a memory limit)."""


class Unsupported(NoriaError, NotImplementedError):
    """The model cannot do this at all; the message names one that can."""


class ModelLimit(NoriaError, OSError):
    """The model can do this, but not any further (fd numbers below 1024 under ``select``)."""
