"""Search for inputs that break a parser, guided by coverage (atheris, which runs libFuzzer).

    python tests/fuzz/parsers/run.py                        # every target, 60 s in all
    python tests/fuzz/parsers/run.py --seconds 3600 urls    # one target, an hour
    python tests/fuzz/parsers/one.py urls FILE              # one target on one input

Inputs that reach new code are kept in `corpus/TARGET/` with --keep, at most 128 bytes long: commit
them. An input that breaks a target is written to `crash-TARGET-…` and named; the exit status is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"


def main() -> int:
    """Fuzz each target in its own process, as libFuzzer exits the process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="in all (default: 60)")
    parser.add_argument("--keep", action="store_true", help="add new inputs to the corpus")
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    arguments = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        parser.exit(1, "atheris is not installed: pip install '.[fuzz]' (CPython 3.11 to 3.14)\n")
    from targets import TARGETS

    if arguments.list:
        print("\n".join(TARGETS))
        return 0
    unknown = sorted(set(arguments.targets) - set(TARGETS))
    if unknown:
        parser.error(f"unknown target {unknown[0]!r}: one of {', '.join(TARGETS)}")
    chosen = arguments.targets or list(TARGETS)
    seconds = max(arguments.seconds // len(chosen), 1)
    broken = []
    for name in chosen:
        print(f"{name}: {seconds} s", flush=True)
        if not fuzz(name, seconds, arguments.keep):
            broken.append(name)
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def fuzz(name: str, seconds: int, keep: bool) -> bool:
    """Fuzz one target for the given seconds; return whether its invariants held."""
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = str(kept) if keep else scratch
        command = [
            *(sys.executable, str(HERE / "one.py"), name, found, str(kept)),
            *(f"-max_total_time={seconds}", f"-artifact_prefix=crash-{name}-", "-timeout=10"),
            *("-max_len=128" if keep else "-max_len=1024", "-rss_limit_mb=2048", "-verbosity=0"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-6000:], file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
