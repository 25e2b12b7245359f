"""Hooks of MkDocs: pages outside docs/, pictures for light and dark, and no request to the network.

ARCHITECTURE.md, the README files of examples/ and bench/, and other documents at the top of the
repository are pages of the site, too. Links between them and docs/ are written for a code host;
here they are rewritten for the site, in both directions.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

# Path in the repository, and path of the page below docs/.
OUTSIDE = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "bench/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
    "examples/thumbnails/README.md": "thumbnails.md",
}
# These pages of the repository have their counterpart below docs/.
COUNTERPARTS = {"README.md": "docs/index.md", "README.zh-CN.md": "docs/index.md"}

# With the plugin `offline`, each page loads this script, which the search needs, from the network.
REMOTE_SCRIPT = "https://unpkg.com/iframe-worker/shim"
LOCAL_SCRIPT = "vendor/iframe-worker.js"

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
PICTURE = re.compile(
    r"<picture>\s*<source [^>]*srcset=\"([^\"]+)\"[^>]*>\s*"
    r"<img alt=\"([^\"]*)\" src=\"([^\"]+)\">\s*</picture>"
)


def rewrite_links(text: str, source: str) -> str:
    """Rewrite the links of a page for the site.

    source: the page's path in the repository ("docs/files.md", "ARCHITECTURE.md").
    A link to a file that is not part of the site is left as it is, and the strict build fails.
    """
    page = OUTSIDE.get(source) or posixpath.relpath(source, "docs")

    def rewrite(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        target = COUNTERPARTS.get(target, target)
        if target in OUTSIDE:
            new = OUTSIDE[target]
        elif target.startswith("docs/"):
            new = target.removeprefix("docs/")
        else:
            return found[0]
        return posixpath.relpath(new, posixpath.dirname(page) or ".") + (found[2] or "")

    return LINK.sub(rewrite, text)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in OUTSIDE.items():
        path = ROOT / source
        if path.exists():
            text = rewrite_links(path.read_text(), source)
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(text: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links, and make each <picture> follow the site's light and dark mode."""
    if page.file.src_uri not in OUTSIDE.values():
        text = rewrite_links(text, "docs/" + page.file.src_uri)
    return PICTURE.sub(r"![\2](\3#only-light)\n![\2](\1#only-dark)", text)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Load the script of the search from the site itself."""
    return output.replace(
        REMOTE_SCRIPT, posixpath.relpath(LOCAL_SCRIPT, posixpath.dirname(page.url))
    )


def on_post_template(output: str, template_name: str, config: Any) -> str:
    return output.replace(REMOTE_SCRIPT, LOCAL_SCRIPT)
