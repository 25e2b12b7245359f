"""Files whose methods are coroutines: noria.open, its file objects and the engines behind them.

Imports `_core.files` only."""
