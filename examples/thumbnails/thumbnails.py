"""Makes a thumbnail of each picture that is uploaded to a noria file server.

EVENTS is the broker's URL, FILES that of the file server. As many of these workers may run as you
like, on any machine: each picture goes to one of them.
"""

import asyncio
import io
import os
import posixpath
import sys
from urllib.parse import quote

import httpx

import noria
from noria.errors import EventRejected

try:
    from PIL import Image, ImageOps
except ImportError:
    sys.exit("this example needs Pillow: pip install pillow")

EVENTS = os.environ.get("EVENTS", "redis://127.0.0.1:6379")
FILES = os.environ.get("FILES", "http://127.0.0.1:8000")
PICTURES = (".gif", ".jpeg", ".jpg", ".png", ".webp")
ENDING = ".thumbnail.jpg"
SIZE = (240, 240)

bus = noria.Bus(EVENTS)


def thumbnail_path(path):
    """Return where the thumbnail of a file is; None if the file is no picture, or a thumbnail."""
    stem, ending = posixpath.splitext(path)
    if ending.lower() not in PICTURES or path.endswith(ENDING):
        return None
    return stem + ENDING


def shrink(picture):
    with Image.open(io.BytesIO(picture)) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail(SIZE)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()


@bus.on("file.created", group="thumbnails", retries=5)
@bus.on("file.replaced", group="thumbnails", retries=5)
async def make(event):
    path = event.data["path"]
    target = thumbnail_path(path)
    if target is None:
        return
    async with httpx.AsyncClient(base_url=FILES) as files:
        response = await files.get(quote(path))
        if response.status_code == 404:  # deleted or moved meanwhile
            return
        response.raise_for_status()
        try:
            small = await asyncio.to_thread(shrink, response.content)
        except OSError as error:
            # No retry helps: it becomes a dead letter at once.
            raise EventRejected(f"{path} is no picture: {error}") from error
        (await files.put(quote(target), content=small)).raise_for_status()
    print(f"{path} -> {target}, attempt {event.attempt}", flush=True)


@bus.on("file.deleted", group="thumbnails", retries=5)
async def remove(event):
    target = thumbnail_path(event.data["path"])
    if target is None:
        return
    async with httpx.AsyncClient(base_url=FILES) as files:
        response = await files.delete(quote(target))
        if response.status_code != 404:
            response.raise_for_status()


if __name__ == "__main__":
    noria.run(bus.run())
