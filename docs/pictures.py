"""Makes the pictures of docs/models.md from a run, with headless Chromium and Pillow.

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

from PIL import Image, ImageChops

FIGURES = ("throughput", "phases", "waiting", "idle", "triggers")
WINDOW = "1000,2600"  # as high as the highest needs; what is empty below is cut off
HERE = Path(__file__).parent / "pictures"


def picture(page: Path, figure: str, theme: str) -> Path:
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
                f"--window-size={WINDOW}",
                f"--screenshot={target}",
                f"file://{page.resolve()}#only={figure}&theme={theme}",
            ],
            check=True,
            capture_output=True,
        )
    with Image.open(target) as image:
        drawn = image.convert("RGB")
    ground = Image.new("RGB", drawn.size, drawn.getpixel((2, drawn.height - 2)))
    box = ImageChops.difference(drawn, ground).getbbox()
    bottom = min(drawn.height, (box[3] if box else drawn.height) + 24)
    drawn.crop((0, 0, drawn.width, bottom)).quantize(64).save(target, optimize=True)
    return target


def main() -> None:
    """Every figure, light and dark."""
    if len(sys.argv) != 2 or not re.search(r"\.html$", sys.argv[1]):
        sys.exit("usage: pictures.py compare.html")
    for figure in FIGURES:
        for theme in ("light", "dark"):
            print(picture(Path(sys.argv[1]), figure, theme))


if __name__ == "__main__":
    main()
