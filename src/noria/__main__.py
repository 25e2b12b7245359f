"""The ``noria`` command and ``python -m noria``."""

import sys

EXTRA = ("click", "rich", "prompt_toolkit", "jinja2", "httpx")  # what 'noria[cli]' brings


def main() -> None:
    """Run the command line and end the process with its exit status."""
    try:
        from noria.cli.main import run

        status = run()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print("the noria commands need: pip install 'noria[cli]'", file=sys.stderr)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
