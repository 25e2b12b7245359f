"""``python -m noria.compare.loadgen``."""

import sys

from noria.compare.loadgen.command import main

if __name__ == "__main__":
    sys.exit(main())
