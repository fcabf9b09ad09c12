"""The documentation: every link and every path in it leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

# Folders that are made by the scripts, or that stand for the reader's own.
MADE = ("data/", "weights/", "logs/", "results/", "quickstart/", "path/", "out/")
MODULES = {
    path.name
    for folder in ("", "smnet/", "smnet/*/", "tests/")
    for path in ROOT.glob(f"{folder}*.py")
}


def links(text: str) -> list[str]:
    """The targets of Markdown's links and pictures that are no addresses of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def paths(text: str) -> list[str]:
    """The words in backticks that have a slash, or are names of Python files."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [
        word
        for word in re.findall(r"`([\w./-]+)`", text)
        if ("/" in word or word.endswith(".py"))
        and not word.startswith((*MADE, "/", "..", "-"))
        and not word.isupper()  # URL/OWNER/REPOSITORY: words to fill in
    ]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_in_backticks_exist(page):
    for path in paths(page.read_text()):
        exists = (ROOT / path).exists() or (page.parent / path).exists() or path in MODULES
        assert exists, f"{page.name} names {path}"
