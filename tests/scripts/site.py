"""Make a site of the documents, in build/site. Strict: a link or an anchor that leads nowhere fails.

make site
"""

import logging
import re
import shutil
import sys
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[2]
PAGES, SITE = ROOT / "build/site-pages", ROOT / "build/site"

#: documents of the root by their names in the site, where README.md is the index of docs/
OF_ROOT = {
    "README.md": "pushdeploy.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)(?P<path>[^)#\s]+)")
_GROUP = re.compile(r"^\*\*(?P<name>[^*]+?)\.?\*\*(?P<links>.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
_LISTED = re.compile(r"\[(?P<title>[^]]+)\]\((?P<path>[^)#\s]+)\)")


def _moved(page: Path, text: str) -> str:
    """Return the text of a document with its links as they are in the site. What is no document is copied there."""

    def lead(found: re.Match[str]) -> str:
        target = (page.parent / found["path"]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return str(target.relative_to(ROOT / "docs"))
        within = str(target.relative_to(ROOT))
        if within in OF_ROOT:
            return OF_ROOT[within]
        if not target.is_file():
            return found["path"]  # which fails, as it should
        (PAGES / "files" / within).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target, PAGES / "files" / within)
        return f"files/{within}"

    return _LINK.sub(lead, text)


def _slug(heading: str, separator: str) -> str:
    """Return the anchor of a heading as GitHub makes it, since the links of the documents lead there."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", separator)


def navigation(index: str) -> list[dict[str, object]]:
    """Return the groups of pages that docs/README.md has."""
    return [
        {
            group["name"]: [
                {one["title"].replace("\n", " ").capitalize(): one["path"].removeprefix("../")}
                for one in _LISTED.finditer(group["links"])
            ]
        }
        for group in _GROUP.finditer(index)
    ]


def main() -> None:
    """Make the site; raises SystemExit where a link leads nowhere."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    for page in sorted((ROOT / "docs").glob("*.md")):
        (PAGES / page.name).write_text(_moved(page, page.read_text(encoding="utf-8")), encoding="utf-8")
    for name, name_there in OF_ROOT.items():
        page = ROOT / name
        (PAGES / name_there).write_text(_moved(page, page.read_text(encoding="utf-8")), encoding="utf-8")
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    (ROOT / "build/mkdocs.yml").write_text("site_name: Pushdeploy\n", encoding="utf-8")
    config = load_config(
        str(ROOT / "build/mkdocs.yml"),
        docs_dir=str(PAGES),
        site_dir=str(SITE),
        strict=True,
        use_directory_urls=False,
        theme={"name": "readthedocs", "highlightjs": False, "navigation_depth": 2},
        markdown_extensions=[{"toc": {"slugify": _slug}}, "tables", "fenced_code"],
        validation={"links": {"anchors": "warn", "not_found": "warn", "absolute_links": "warn"}},
        nav=[{"Documentation": "README.md"}, *navigation(index)],
    )
    build(config)
    sys.stdout.write(f"{SITE.relative_to(ROOT)}/index.html\n")


if __name__ == "__main__":
    main()
