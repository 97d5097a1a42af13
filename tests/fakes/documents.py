"""The tables of the documents, made of the code: settings, commands, response formats.

`python -m tools.release.write_documents` writes them between their marks, and a test compares.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from scribewire.engine.cli import build_parser as engine_parser
from scribewire.server.cli import build_parser as own_parser
from scribewire.server.client.command import build_parser as client_parser
from scribewire.server.intake.formats import FORMATS
from scribewire.server.settings.fields import ENVIRONMENT_PREFIX, Settings, flag_name
from scribewire.server.settings.flags import shown_default

PROJECT = Path(__file__).resolve().parents[2]
WAYS = {
    "stream": "`stream`",
    "words": "`timestamp_granularities[]=word`",
    "logprobs": "`include[]=logprobs`",
}
DEFAULT_SERVER = "http://127.0.0.1:8765"


def settings_table() -> str:
    """Every setting, by its flag and its variable."""
    rows = ["| Flag | Environment | Default | Meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{flag_name(setting.name)}` | `{ENVIRONMENT_PREFIX}{setting.name.upper()}` "
        f"| {shown_default(setting)} | {setting.metadata['help']} |"
        for setting in fields(Settings)
    ]
    return "\n".join(rows)


def formats_table() -> str:
    """Every response format."""
    rows = ["| `response_format` | Content type | Answer | With |", "|---|---|---|---|"]
    for one in FORMATS.values():
        ways = ", ".join(WAYS[part] for part in one.takes) or "-"
        rows.append(f"| `{one.name}` | {one.media_type} | {one.about} | {ways} |")
    return "\n".join(rows)


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command's parser by what is typed, `keys create` too; `serve` is the settings."""
    found: dict[str, argparse.ArgumentParser] = {}
    for parser in (own_parser(), client_parser(DEFAULT_SERVER), engine_parser()):
        for name, one in _below(parser):
            # The first parser lists the others' commands without their arguments.
            if len(one._actions) > 1 or name not in found:
                found[name] = one
    return found


def commands_text() -> str:
    """A section for each command: what it is for, its arguments, its examples."""
    sections = []
    for name, parser in commands().items():
        if name == "serve":
            continue
        sections.append(f"## scribewire {name}\n\n{_told(parser.description)}".rstrip())
        rows = [f"| {_spelt(action)} | {_told(action.help)} |" for action in _arguments(parser)]
        if rows:
            sections.append("\n".join(["| Argument | Meaning |", "|---|---|", *rows]))
    return "\n\n".join(sections)


def decisions_index() -> str:
    """Every decision by its number and title."""
    return "\n".join(
        f"- [{one.name[:4]}]({one.name}) {one.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}"
        for one in decisions()
    )


def decisions() -> list[Path]:
    """The files of decisions, in the order of their numbers."""
    return sorted((PROJECT / "docs" / "decisions").glob("[0-9]*.md"))


DOCUMENTS = {
    "docs/decisions/README.md": ("index", decisions_index),
    "docs/settings.md": ("settings", settings_table),
    "docs/api.md": ("formats", formats_table),
    "docs/commands.md": ("commands", commands_text),
}
"""The file that has a table, the table's name in its marks, and what makes it."""


def filled(text: str, name: str, table: str) -> str:
    """A document with its table between the marks of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    assert text.count(begin) == text.count(end) == 1
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def _below(parser: argparse.ArgumentParser, typed: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                whole = f"{typed} {name}".strip()
                yield whole, one
                yield from _below(one, whole)


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    left_out = (argparse._HelpAction, argparse._SubParsersAction)
    return [
        action
        for action in parser._actions
        if not isinstance(action, left_out) and action.help != argparse.SUPPRESS
    ]


def _spelt(action: argparse.Action) -> str:
    value = (
        ""
        if action.nargs == 0
        else action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    )
    if isinstance(value, tuple):
        value = " ".join(value)
    if action.choices is not None and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    return f"`{', '.join(action.option_strings)} {value}`".replace("` ", "`").replace(" `", "`")


def _told(text: str | None) -> str:
    """A help text on one line, as a table can hold it."""
    one_line = re.sub(r"\s+", " ", (text or "").replace("%%", "%")).strip()
    return one_line.replace("|", "\\|").replace("<", "&lt;")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document. reason: why a test does not run it, from the comment before it; "" to run it."""

    language: str
    text: str
    reason: str

    def lines(self) -> list[str]:
        """Its commands, continued lines joined."""
        return self.text.replace("\\\n", " ").splitlines()


def blocks(page: Path) -> list[Block]:
    """The blocks of a document in sh and Python."""
    found = re.findall(
        r"(?:<!-- not run: ([^>]*) -->\n)?```(sh|python)\n(.*?)```",
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    return [Block(language, text, reason) for reason, language, text in found]
