KINDS: tuple[str, ...]
COUNTER_NAMES: tuple[str, ...]
TLS_STATES: tuple[str, ...]
