"""The page of a directory: its HTML, and what its scripts do in a browser."""

from __future__ import annotations

import os
import re
import struct
import zlib
from html.parser import HTMLParser
from importlib.resources import files

import pytest

pytest.importorskip("jinja2")

from noria.fileserver.web import page as pages
from noria.fileserver.web.page import page
from support.chromium import PROGRAM, Browser
from support.small_fileserver import Server

needs_browser = pytest.mark.skipif(
    not PROGRAM, reason="chromium is not installed: the page is not tried in a browser"
)

HOSTILE = [
    "<img src=x onerror=document.title='pwned'>.txt",
    "\"><script>document.title='pwned'<!--",
    "' onmouseover='document.title=1",
    "{{ 7 * 7 }}",
    "javascript:document.title='pwned'",
    "evil\u202egpj.exe",
    "two\nlines\r.txt",
    "&lt;b&gt; %2e%2e #?",
    "\x1b[31mred",
    "שלום עולם.txt",
]


def listing(*names, path="/", writable=True, **more):
    entries = [{"name": n, "type": "file", "size": 5, "modified": 1e9, **more} for n in names]
    return {"path": path, "writable": writable, "entries": entries}


class Reader(HTMLParser):
    """Tags with their attributes, and the text in each <bdi>."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.names: list[str] = []
        self.inside = False
        self.feed(html.decode())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "bdi":
            self.inside = True
            self.names.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "bdi"

    def handle_data(self, data):
        if self.inside:
            self.names[-1] += data


# The HTML


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_and_links_stay_beneath_the_directory(name):
    read = Reader(page(listing(name, path="/d/"), uploads=True))
    plain = Reader(page(listing("a", path="/d/"), uploads=True))
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in plain.tags]
    assert [set(given) for _, given in read.tags] == [set(given) for _, given in plain.tags]
    assert pages.visible(name) in read.names
    href = next(given["href"] for tag, given in read.tags if given.get("href", "")[:2] == "./")
    assert re.fullmatch(r"\./[A-Za-z0-9_.~%-]+", href)


def test_the_former_module_works_with_a_warning():
    from noria.fileserver import page as former

    with pytest.warns(DeprecationWarning, match=r"import noria\.fileserver\.web\.page"):
        assert former.page is page
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = former.nothing


def test_nothing_inline_and_nothing_from_elsewhere():
    html = page(listing(*HOSTILE), uploads=True)
    for tag, given in Reader(html).tags:
        assert not any(name.startswith("on") or name == "style" for name in given)
        assert tag not in ("style", "base", "iframe")
        assert tag != "script" or given["src"].startswith("/-/assets/")
        for name in ("href", "src", "action"):
            assert re.match(r"/|\./|\?", given.get(name) or "/")


@pytest.mark.parametrize("uploads", [True, False])
@pytest.mark.parametrize("writable", [True, False])
def test_what_changes_things_is_there_only_if_it_would_work(uploads, writable):
    html = page(listing("a", writable=writable), uploads=uploads)
    found = [b"<form" in html, b"data-act" in html, b"data-writable" in html]
    assert found == [uploads and writable] * 3


def test_folders_first_and_then_by_name():
    data = listing("b", "A", "c")
    data["entries"].append({"name": "z", "type": "directory", "size": 0, "modified": 0})
    assert Reader(page(data, uploads=False)).names == ["z", "A", "b", "c"]


def test_breadcrumbs():
    assert pages.crumbs("/") == [("", "/")]
    assert pages.crumbs("/a b/ü/") == [("", "/"), ("a b", "/a%20b/"), ("ü", "/a%20b/%C3%BC/")]


def test_names_that_are_no_unicode():
    name = os.fsdecode(b"\xff.txt")
    html = page(listing(name, path=f"/{name}/"), uploads=True)
    assert b'href="./%FF.txt"' in html
    assert b'action="/%FF.txt/"' in html
    assert "�.txt" in Reader(html).names


def test_an_empty_directory_has_a_message():
    assert b"This folder is empty." in page(listing(), uploads=True)


@pytest.mark.parametrize("modified", [1e300, -1e300, -5.0])
def test_dates_out_of_all_calendars(modified):
    assert b"<time" in page(listing("a", modified=modified), uploads=False)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 70, "1048576.0 PiB"),
    ],
)
def test_sizes(count, text):
    assert pages.format_size(count) == text


def test_every_asset_that_is_named_is_there():
    directory = files("noria.fileserver.web").joinpath("static")
    texts = [page(listing("a"), uploads=True).decode()]
    texts += [each.read_text() for each in directory.iterdir() if each.name.endswith(".js")]
    named = set()
    for text in texts:
        named |= set(re.findall(r"/-/assets/([a-z.]+)", text))
        named |= set(re.findall(r"(?:from|import\()\s*\"\./([a-z.]+)\"", text))
    assert named == {each.name for each in directory.iterdir()}
    icons = directory.joinpath("icons.svg").read_text()
    for name in set(re.findall(r"icons\.svg#([a-z-]+)", texts[0])):
        assert f'id="{name}"' in icons


def previews(*names, **more):
    return [
        a["src"] for t, a in Reader(page(listing(*names, **more), uploads=True)).tags if t == "img"
    ]


def test_small_pictures_show_themselves():
    assert previews("a b.PNG", "c.jpg", "d.txt", "e.svg", "f.png.gz") == [
        "./a%20b.PNG?modified=1000000000.0",
        "./c.jpg?modified=1000000000.0",
    ]


@pytest.mark.parametrize(
    "more", [{"size": 0}, {"size": pages.MAX_PREVIEW_BYTES + 1}, {"type": "directory"}]
)
def test_other_entries_have_an_icon(more):
    assert previews("a.png", **more) == []


# In a browser


def png(width, height):
    """Return a black picture."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(width + 1) * height)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def server(root):
    with Server(root, page=page) as server:
        yield server


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    chromium.renew()
    yield chromium
    assert chromium.errors == []


def show(browser, url, **more):
    browser.show(url, **more)
    browser.until("'ready' in document.documentElement.dataset")


def shown(browser):
    return browser.ask(
        "[...document.querySelectorAll('tbody tr:not([hidden])')].map(r => r.dataset.name)"
    )


def focused(browser):
    return browser.ask("document.activeElement.closest('tr')?.dataset.name ?? null")


@needs_browser
def test_hostile_names_in_a_browser(server, browser, root):
    for name in HOSTILE:
        (root / name).touch()
    show(browser, server.url + "/")
    assert sorted(shown(browser)) == sorted(map(pages.visible, HOSTILE))
    assert browser.ask("document.title") == "/"
    hrefs = browser.ask("[...document.querySelectorAll('td.name a')].map(a => a.href)")
    assert all(href.startswith(server.url + "/") for href in hrefs)


@needs_browser
def test_sort_filter_and_keys(server, browser, root):
    for name, size, time in (("a10", 1, 30), ("a9", 3, 20), ("b", 2, 10)):
        (root / name).write_bytes(b"x" * size)
        os.utime(root / name, (1e9 + time, 1e9 + time))
    (root / "z").mkdir()
    show(browser, server.url + "/")
    assert shown(browser) == ["z", "a9", "a10", "b"]
    browser.click("[data-sort=size]")
    assert shown(browser) == ["z", "a9", "b", "a10"]
    assert browser.ask("document.querySelector('th.size').ariaSort") == "descending"
    browser.click("[data-sort=modified]")
    browser.click("[data-sort=modified]")
    assert shown(browser) == ["z", "b", "a9", "a10"]
    browser.press("/")
    browser.write("A1")
    assert shown(browser) == ["a10"]
    browser.press("Escape")
    assert len(shown(browser)) == 4
    for key, name in (
        ("ArrowDown", "z"),
        ("ArrowDown", "b"),
        ("End", "a10"),
        ("ArrowUp", "a9"),
        ("Home", "z"),
    ):
        browser.press(key)
        assert focused(browser) == name
    stops = "[...document.querySelectorAll('tbody a')].filter(a => a.tabIndex === 0).length"
    assert browser.ask(stops) == 1
    browser.press("Enter")
    browser.until("location.pathname === '/z/'")


@needs_browser
def test_new_folder_rename_and_delete_by_the_keys(server, browser, root):
    (root / "a.txt").write_bytes(b"hello")
    (root / "taken").touch()
    show(browser, server.url + "/")
    browser.click("#new-folder")
    browser.write("new & <b>")
    browser.press("Enter")
    browser.until("!document.querySelector('dialog').open")
    assert (root / "new & <b>").is_dir()
    assert focused(browser) == "new & <b>"
    browser.press("ArrowDown")
    browser.press("F2")
    browser.write("b")
    browser.press("Enter")
    browser.until("!document.querySelector('dialog').open")
    assert (root / "b.txt").read_bytes() == b"hello"
    assert focused(browser) == "b.txt"
    browser.press("F2")
    browser.ask("document.getElementById('dialog-name').select()")
    browser.write("taken")
    browser.press("Enter")
    browser.until("document.getElementById('dialog-problem').textContent.includes('already')")
    browser.press("Escape")
    browser.until("!document.querySelector('dialog').open")
    assert focused(browser) == "b.txt"
    browser.press("Delete")
    browser.press("Escape")
    assert (root / "b.txt").exists()
    browser.press("Delete")
    browser.press("Enter")
    browser.until("!document.querySelector('dialog').open")
    assert not (root / "b.txt").exists()
    assert focused(browser) == "taken"


@needs_browser
def test_a_folder_is_deleted_with_what_is_in_it(server, browser, root):
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "a#?").touch()
    show(browser, server.url + "/")
    browser.click("[data-act=delete]")
    assert "everything in it" in browser.ask("document.querySelector('dialog').textContent")
    browser.press("Enter")
    browser.until("!document.querySelector('dialog').open")
    assert list(root.iterdir()) == []
    deleted = [path for method, path, _ in server.seen if method == "DELETE"]
    assert deleted == ["/d/e/a%23%3F", "/d/e/", "/d/"]


@needs_browser
def test_the_listing_is_live(server, browser, root):
    show(browser, server.url + "/")
    browser.until("!document.getElementById('empty').hidden")
    while "/" not in server.followed:
        browser.ask("0")
    (root / "new").touch()
    with server.changed:
        server.changes["/"] += 1
    browser.until("document.querySelector('tbody tr')?.dataset.name === 'new'")
    assert browser.ask("document.getElementById('empty').hidden")


def states(browser):
    return browser.ask("[...document.querySelectorAll('#queue li')].map(li => li.dataset.state)")


@needs_browser
def test_a_picture_appears_and_changes_on_the_open_page(server, browser, root):
    show(browser, server.url + "/")
    while "/" not in server.followed:
        browser.ask("0")
    for width in (3, 5):
        (root / "new").write_bytes(png(width, 2))
        (root / "new").rename(root / "a.png")
        with server.changed:
            server.changes["/"] += 1
        browser.until(f"document.querySelector('td.name img')?.naturalWidth === {width}")


@needs_browser
def test_uploading_with_faults_of_the_network(server, browser, root, tmp_path):
    big, small, empty = tmp_path / "big", tmp_path / "s <b>", tmp_path / "empty"
    big.write_bytes(os.urandom(20 << 20))
    small.write_bytes(b"hello")
    empty.touch()
    server.faults["PATCH"] = [("cut", 5 << 20), 503]
    show(browser, server.url + "/")
    browser.choose("#files", big)
    browser.until("document.querySelector('#queue li')?.dataset.state === 'done'")
    assert (root / "big").read_bytes() == big.read_bytes()
    assert server.methods()["POST"] == 1
    browser.choose("#files", small, empty)
    browser.until("document.querySelectorAll('#queue li[data-state=done]').length === 3")
    assert (root / "s <b>").read_bytes() == b"hello"
    assert (root / "empty").read_bytes() == b""
    browser.until("document.querySelectorAll('tbody tr').length === 3")
    title = "document.getElementById('uploads-title').textContent"
    assert browser.ask(title) == "3 of 3 uploaded"
    browser.choose("#files", small)
    browser.until("document.querySelector('#queue li[data-state=failed]')")
    assert "with that name" in browser.ask(
        "document.querySelector('li[data-state=failed]').textContent"
    )
    browser.click("#clear")
    assert states(browser) == ["failed"]


@needs_browser
def test_pause_and_resume_also_on_another_day(server, browser, root, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(os.urandom(20 << 20))
    show(browser, server.url + "/")
    server.slow = 0.2
    browser.choose("#files", big)
    while not any(upload["data"] for upload in server.uploads.values()):
        browser.ask("0")
    browser.click("[data-do=pause]")
    assert states(browser) == ["paused"]
    assert not browser.ask("document.querySelector('[data-do=resume]').hidden")
    assert not (root / "big").exists()
    server.slow = 0
    browser.renew()
    show(browser, server.url + "/")
    browser.choose("#files", big)
    browser.until("document.querySelector('#queue li')?.dataset.state === 'done'")
    assert (root / "big").read_bytes() == big.read_bytes()
    assert server.methods()["POST"] == 1


@needs_browser
def test_cancel_ends_it_on_the_server_too(server, browser, root, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(bytes(20 << 20))
    show(browser, server.url + "/")
    server.slow = 0.2
    browser.choose("#files", big)
    while not any(upload["data"] for upload in server.uploads.values()):
        browser.ask("0")
    browser.click("[data-do=cancel]")
    browser.until("document.getElementById('uploads').hidden")
    while server.uploads:
        browser.ask("0")
    assert not (root / "big").exists()


@needs_browser
def test_a_folder_is_sent_with_its_folders(server, browser, root, tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "a").write_bytes(b"a")
    (tmp_path / "d" / "e" / "b").write_bytes(b"b")
    (root / "sub").mkdir()
    show(browser, server.url + "/sub/")
    browser.choose("#folder", tmp_path / "d")
    browser.until("document.querySelectorAll('#queue li[data-state=done]').length === 2")
    assert (root / "sub" / "d" / "a").read_bytes() == b"a"
    assert (root / "sub" / "d" / "e" / "b").read_bytes() == b"b"


@needs_browser
def test_files_can_be_dropped(server, browser, root, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    show(browser, server.url + "/")
    data = {
        "items": [],
        "files": [str(tmp_path / "d"), str(tmp_path / "b")],
        "dragOperationsMask": 1,
    }
    for kind in ("dragEnter", "dragOver"):
        browser.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)
    browser.until("!document.getElementById('drop').hidden")
    browser.call("Input.dispatchDragEvent", type="drop", x=300, y=300, data=data)
    browser.until("document.querySelectorAll('#queue li[data-state=done]').length === 2")
    assert browser.ask("document.getElementById('drop').hidden")
    assert (root / "d" / "a").read_bytes() == b"a"
    assert (root / "b").read_bytes() == b"b"


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(server, browser, root, dark):
    (root / ("long" * 40)).touch()
    (root / "d").mkdir()
    show(browser, server.url + "/", width=360, height=740, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth") == 360
    colour = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(21, 23, 26)" if dark else "rgb(252, 251, 249)")


@needs_browser
def test_without_scripts_there_are_links_and_a_form(server, browser, root):
    (root / "a").touch()
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.show(server.url + "/")
    seen = (
        "(s => getComputedStyle(document.querySelector(s)).display !== 'none')"  # as a page has it
    )
    assert browser.ask(f"{seen}('.plain')")
    assert browser.ask(f"{seen}('td.name a')")
    assert not browser.ask(f"{seen}('#new-folder')")
    assert not browser.ask(f"{seen}('td.acts')")
