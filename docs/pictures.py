"""Make the pictures of docs/models.md and README.md from a run, with headless Chromium and Pillow.

noria compare --quick --output compare.html --json docs/pictures/compare.json
python docs/pictures.py compare.html
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

FIGURES = ("throughput", "phases", "waiting", "idle", "triggers")
# Pixels. High enough for the highest figure; what is empty below it is cut off.
FIGURE_SIZE = "1000,2600"
# Pixels. The top of the page, to the end of the first chart.
PAGE_SIZE = "1000,2285"
PICTURES = Path(__file__).parent / "pictures"


def screenshot(page: Path, fragment: str, size: str, target: Path) -> None:
    """Write a screenshot of `page` to `target`."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("chromium is not installed")
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
                f"--window-size={size}",
                f"--screenshot={target}",
                f"file://{page.resolve()}#{fragment}",
            ],
            check=True,
            capture_output=True,
        )


def figure_picture(page: Path, figure: str, theme: str) -> Path:
    """Make a PNG of one figure, and return its path."""
    target = PICTURES / f"{figure}-{theme}.png"
    screenshot(page, f"only={figure}&theme={theme}", FIGURE_SIZE, target)
    with Image.open(target) as image:
        pixels = image.convert("RGB")
    background = Image.new("RGB", pixels.size, pixels.getpixel((2, pixels.height - 2)))
    box = ImageChops.difference(pixels, background).getbbox()
    bottom = min(pixels.height, (box[3] if box else pixels.height) + 24)
    pixels.crop((0, 0, pixels.width, bottom)).quantize(64).save(target, optimize=True)
    return target


def page_picture(page: Path) -> Path:
    """Make a PNG of the top of the page, and return its path."""
    target = PICTURES / "compare.png"
    screenshot(page, "theme=light", PAGE_SIZE, target)
    with Image.open(target) as image:
        pixels = image.convert("RGB")
    pixels.quantize(128).save(target, optimize=True)
    return target


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".html"):
        sys.exit("usage: pictures.py compare.html")
    page = Path(sys.argv[1])
    print(page_picture(page))
    for figure in FIGURES:
        for theme in ("light", "dark"):
            print(figure_picture(page, figure, theme))


if __name__ == "__main__":
    main()
