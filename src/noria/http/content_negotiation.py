"""The fields Accept and Accept-Encoding (RFC 9110, section 12.5)."""

from __future__ import annotations

# The content codings that the server can choose from, the preferred ones first.
CONTENT_CODINGS = ("br", "zstd", "gzip")


def parse_accept(value: str) -> dict[str, float]:
    """The weight of each item in the value of an Accept or Accept-Encoding field.

    Names are in lower case. A weight that is not a number counts as 0, which means "not accepted".
    """
    weights: dict[str, float] = {}
    for item in value.split(","):
        name, *parameters = (piece.strip().lower() for piece in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, number = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = min(max(float(number), 0.0), 1.0)
                except ValueError:
                    weight = 0.0
        if name:
            weights[name] = weight
    return weights


def preferred_codings(value: str) -> list[str]:
    """The accepted ones of `CONTENT_CODINGS` for an Accept-Encoding value, the best first."""
    if not value:
        return []
    weights = parse_accept(value)
    default = weights.get("*", 0.0)
    accepted = [(weights.get(c, default), -i, c) for i, c in enumerate(CONTENT_CODINGS)]
    return [coding for weight, _, coding in sorted(accepted, reverse=True) if weight > 0]
