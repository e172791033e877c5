"""Check the links inside the built documentation site: `python docs/check_site.py build/site`.

Sphinx checks references between pages. This looks at the result: every link and picture exists, every anchor
exists, and every page can be reached from the first one. Links to other sites are not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

GENERATED = {"genindex.html", "search.html", "py-modindex.html", "404.html"}
"""Pages that Sphinx makes."""


class Page(HTMLParser):
    """Anchors and links of one page.

    Attributes:
        anchors: Values of `id` and `name`.
        links: Values of `href` and `src`, as they are written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the anchors and links of an element."""
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name in ("href", "src") and value:
                self.links.append(value)


def problems(site: Path) -> list[str]:
    """Return a sentence for each dead link and each page that no link leads to.

    Args:
        site: Folder of the built site.
    """
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    dead = []
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path in reached or path not in pages:
            continue
        reached.add(path)
        for link in pages[path].links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            name, anchor = urldefrag(link)
            target = (path.parent / unquote(urlsplit(name).path)).resolve() if urlsplit(name).path else path
            place = path.relative_to(site)
            if not target.exists():
                dead.append(f"{place}: {link} leads nowhere")
            elif target in pages:
                waiting.append(target)
                if anchor and unquote(anchor) not in pages[target].anchors:
                    dead.append(f"{place}: {link}: the page has no such anchor")
    orphans = [path for path in pages if path not in reached and path.name not in GENERATED]
    return dead + [f"{path.relative_to(site)}: no link leads to this page" for path in orphans]


def main(site: Path) -> int:
    """Print the problems of a site and return the exit status."""
    site = site.resolve()
    if not (site / "index.html").exists():
        print(f"{site}: no index.html; build the site with `make docs`", file=sys.stderr)
        return 2
    dead = problems(site)
    print(*dead, sep="\n", end="\n" if dead else "")
    pages = sum(1 for _ in site.rglob("*.html"))
    print(f"{pages} pages: {len(dead)} dead links or pages without a link")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
