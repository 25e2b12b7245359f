"""The figures of `noria top --once` as a page that renews itself."""

from __future__ import annotations

import base64
import hashlib
import html
import json

from noria.sight.top import units
from noria.sight.top.poller import Poller
from noria.sight.top.session import Session, View
from noria.sight.top.text import view_text

LEAST_WIDTH, MOST_WIDTH = 40, 400  # characters

STYLE = """
:root { color-scheme: light dark; --dim: #6a6f76; --good: #1a7f37; --warn: #9a6700; --bad: #c9252d;
  --accent: #0a6a8a; --page: #fff; --text: #1c2024; --line: #d8dce0; }
@media (prefers-color-scheme: dark) { :root { --dim: #8b949e; --good: #3fb950; --warn: #d29922;
  --bad: #ff6b68; --accent: #4fb3d9; --page: #14171a; --text: #dfe3e6; --line: #30363d; } }
body { margin: 0; background: var(--page); color: var(--text);
  font: 13px/1.35 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
header { position: sticky; top: 0; display: flex; gap: 1em; align-items: baseline;
  padding: .6em 1em; background: var(--page); border-bottom: 1px solid var(--line); }
h1 { font: inherit; font-weight: bold; margin: 0; }
#state { margin-left: auto; } #state.bad { color: var(--bad); font-weight: bold; }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--line);
  border-radius: 4px; padding: .1em .8em; cursor: pointer; }
pre { font: inherit; margin: 0; padding: 1em; overflow-x: auto; }
.dim { color: var(--dim); } .good { color: var(--good); } .warn { color: var(--warn); }
.bad { color: var(--bad); font-weight: bold; } .accent { color: var(--accent); }
.ruler { position: absolute; visibility: hidden; padding: 0; }
.strong { font-weight: bold; }
"""

SCRIPT = """
"use strict";
const view = document.getElementById("view"), state = document.getElementById("state");
const button = document.getElementById("pause"), ruler = document.getElementById("ruler");
let paused = false;
function columns() {
  const one = ruler.getBoundingClientRect().width / 10;
  return Math.floor((document.documentElement.clientWidth - 26) / one);
}
async function renew() {
  let seconds = 1;
  try {
    if (!paused) {
      const answer = await fetch("data?width=" + columns());
      if (!answer.ok) throw new Error(answer.status);
      const data = await answer.json();
      view.innerHTML = data.html;
      state.textContent = data.state;
      state.className = data.well ? "" : "bad";
      document.title = "noria top " + data.pid;
      seconds = data.interval;
    }
  } catch (error) {
    state.textContent = "noria top does not answer";
    state.className = "bad";
  }
  setTimeout(renew, seconds * 1000);
}
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "continue" : "pause";
});
renew();
"""

DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>noria top</title>
<style>{style}</style>
</head>
<body>
<header><h1>noria top</h1><span id="state">connecting</span>
<button id="pause" type="button">pause</button></header>
<pre id="view"></pre>
<pre class="ruler"><span id="ruler">0000000000</span></pre>
<script>{script}</script>
</body>
</html>
"""


class TextPage:
    """A page of text, drawn anew at each interval."""

    def __init__(self, session: Session) -> None:
        self.policy = (
            "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            f"frame-ancestors 'none'; script-src '{_hash(SCRIPT)}'; style-src '{_hash(STYLE)}'"
        )
        self._session = session
        self._view = View()
        self._poller = Poller(session, self._receive)

    def start(self) -> None:
        """Begin to observe."""
        self._poller.start()

    def close(self) -> None:
        """Stop to observe."""
        self._poller.close()

    def document(self) -> bytes:
        """Return the HTML."""
        return DOCUMENT.format(style=STYLE, script=SCRIPT).encode()

    def data(self, query: dict[str, str]) -> bytes:
        """Return the newest figures as HTML, in JSON. *query* may have "width", in characters."""
        view, session = self._view, self._session
        text = query.get("width", "")
        width = int(text) if text.isdecimal() and len(text) < 6 else 120
        width = min(max(width, LEAST_WIDTH), MOST_WIDTH)
        state, well = _state(view, session)
        return json.dumps(
            {
                "html": view_text(session, view, width, _span) if view.observed else "",
                "state": state,
                "well": well,
                "pid": view.observation.pid,
                "interval": session.interval,
            }
        ).encode()

    def _receive(self, view: View) -> None:
        self._view = view


def _state(view: View, session: Session) -> tuple[str, bool]:
    """Return how observing goes, and whether it goes well."""
    if view.ended:
        return "the process has ended", False
    if view.observed and not view.observation.answering:
        return f"not answering for {units.duration(view.observation.silent)}", False
    if view.error:
        return view.error, False
    return (f"live, every {session.interval:g} s", True) if view.observed else ("connecting", True)


def _span(text: str, style: str) -> str:
    escaped = html.escape(text)
    return f'<span class="{style}">{escaped}</span>' if style else escaped


def _hash(text: str) -> str:
    """Return the source expression of an inline script or style (CSP level 3)."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
