"""The documents: their tables are the code's, their commands can be parsed, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scribewire.engine.checkpoint.published import PUBLISHED_MODELS
from tests.fakes.documents import DOCUMENTS, PROJECT, blocks, commands, decisions, filled

README_LINES = 160
DECISION_COLUMNS = 100
PAGES = [PROJECT / "README.md", PROJECT / "deploy" / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def shown(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("path", DOCUMENTS)
def test_tables_are_as_the_code_has_them(path: str) -> None:
    text = (PROJECT / path).read_text(encoding="utf-8")
    name, table = DOCUMENTS[path]
    assert text == filled(text, name, table()), "run python -m tools.release.write_documents"


def test_the_readme_can_be_read_at_once() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_scribewire_line_can_be_parsed(page: Path) -> None:
    parsers = commands()
    for line in (line for block in blocks(page) if block.language == "sh" for line in block.lines()):
        words = shlex.split(line, comments=True)
        if not words or words[0] not in ("scribewire", ".venv/bin/scribewire"):
            continue
        words = words[1 : next((n for n, word in enumerate(words) if word in ("|", ">", "&&")), None)]
        if words[0] in ("--help", "--version"):
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in parsers else words[0]
        assert name in parsers, line
        try:
            parsers[name].parse_args(words[len(name.split()) :])
        except SystemExit:
            pytest.fail(f"{shown(page)}: {line}")


@pytest.mark.parametrize("page", [*PAGES, *sorted((PROJECT / "docs").glob("*/*.md"))], ids=shown)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{shown(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_nothing_is_installed_by_a_name_that_no_index_has(page: Path) -> None:
    assert not re.search(r"pip install\S* ['\"]?scribewire", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", decisions(), ids=lambda path: path.stem)
def test_a_decision_has_title_date_and_status_on_narrow_lines(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert re.fullmatch(r"Date: \d{4}-\d\d-\d\d\. Status: [a-z].*\.", lines[2]), lines[2]
    assert max(map(len, lines)) <= DECISION_COLUMNS
    assert len(f"- [{path.name[:4]}]({path.name}) {lines[0].removeprefix('# ')}") <= DECISION_COLUMNS


def test_every_model_that_the_command_lists_is_in_the_table_of_models() -> None:
    page = (PROJECT / "docs" / "models.md").read_text(encoding="utf-8")
    assert [one.model_id for one in PUBLISHED_MODELS if f"`{one.model_id}`" not in page] == []
