"""Every chapter of the manual: its code is executed, and its links lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from snippets import Page

GUIDE = Path(__file__).resolve().parent.parent / "examples" / "guide"
PAGES = {path.name: Page(path) for path in sorted(GUIDE.glob("*.md"))}
PROGRAMS = [(name, program) for name, page in PAGES.items() for program in page.programs]

MOST_LINES = 250


@pytest.mark.parametrize(("name", "program"), PROGRAMS)
def test_a_program_prints_what_the_chapter_says(name: str, program: str, tmp_path: Path) -> None:
    PAGES[name].check_program(program, tmp_path)


@pytest.mark.parametrize("name", PAGES)
def test_every_snippet_of_a_chapter_is_executed(name: str) -> None:
    PAGES[name].check_all_are_executed()


@pytest.mark.parametrize("name", PAGES)
def test_a_chapter_leads_to_files_that_exist(name: str) -> None:
    missing = [link for link in PAGES[name].links if not (GUIDE / link).exists()]

    assert missing == []


@pytest.mark.parametrize("name", PAGES)
def test_a_chapter_is_short(name: str) -> None:
    assert len(PAGES[name].text.splitlines()) <= MOST_LINES


def test_every_chapter_stands_in_the_index() -> None:
    index = PAGES["README.md"]

    assert {name for name in PAGES if name != "README.md"} <= set(index.links)
