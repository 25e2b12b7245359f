"""Makes the pictures of docs/models.md from a run of the experiment, with headless Chromium.

noria compare --output compare.html --json docs/pictures/compare.json
python docs/pictures.py compare.html
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# The figures and the height of window that each needs at 1000 pixels of width.
FIGURES = {"throughput": 2200, "phases": 1700, "waiting": 900, "idle": 1100, "triggers": 700}
HERE = Path(__file__).parent / "pictures"


def picture(page: Path, figure: str, height: int, theme: str) -> Path:
    """One figure as a PNG."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("chromium is not installed")
    target = HERE / f"{figure}-{theme}.png"
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size=1000,{height}",
                f"--screenshot={target}",
                f"file://{page.resolve()}#only={figure}&theme={theme}",
            ],
            check=True,
            capture_output=True,
        )
    return target


def main() -> None:
    """Every figure, light and dark."""
    if len(sys.argv) != 2 or not re.search(r"\.html$", sys.argv[1]):
        sys.exit("usage: pictures.py compare.html")
    for figure, height in FIGURES.items():
        for theme in ("light", "dark"):
            print(picture(Path(sys.argv[1]), figure, height, theme))


if __name__ == "__main__":
    main()
