"""Formats and files of results: what was asked for and where it goes; files are there in full or not at all.

For `transcribe` and `submit` alike. No file that exists is replaced unless that was asked for, an input never.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

STANDARD_INPUT = "-"
_NAMES_OF_RECORDINGS = re.compile(
    r".+\.(3gp|aac|ac3|aiff?|amr|ape|avi|caf|eac3|flac|flv|m4[abv]|mk[av]|mov|mp[34]|mpe?g|og[agv]|opus|ts|wav|webm|"
    r"wm[av]|wv)",
    re.IGNORECASE,
)
"""What is taken of a folder. A file that is named is tried whatever its name."""

_SAME_FORMAT = {"txt": "text", "text": "txt"}


class OutputInvalid(ValueError):
    """Formats or a place that cannot be meant; the message is one line with a remedy."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording to be read, and the name of its results: a path below their folder, without extension.

    name: as typed, or found below what was typed; `-` for standard input. problem: the reason why it cannot be read.
    """

    name: str
    result: Path
    problem: str | None = None

    @property
    def shown(self) -> str:
        """Its name for messages."""
        return "standard input" if self.name == STANDARD_INPUT else self.name


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go: into one file, into a folder, or to standard output when both are None."""

    folder: Path | None = None
    file: Path | None = None
    existing: Literal["refuse", "replace", "skip"] = "refuse"


@dataclass(frozen=True, slots=True)
class Planned:
    """One recording with the files to be written, by format; none for standard output.

    problem: the reason not to begin. is_done: all of its results are there and are to be left.
    """

    recording: Recording
    targets: Mapping[str, Path] = field(default_factory=dict)
    problem: str | None = None
    is_done: bool = False


def chosen_formats(given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Formats from names and lists of names with commas; `txt` and `text` are the same, `all` is every one.

    raises: OutputInvalid
    """
    found: list[str] = []
    for name in ",".join(given).split(",") if given else ():
        name = name.strip()
        if name == "all":
            found += known
        elif name in known:
            found.append(name)
        elif _SAME_FORMAT.get(name) in known:
            found.append(_SAME_FORMAT[name])
        else:
            raise OutputInvalid(f"-f {name}: no such format; there are {', '.join(known)}")
    return tuple(dict.fromkeys(found))


def chosen_output(
    output: str | None,
    formats: Sequence[str],
    extensions: Mapping[str, str],
    existing: Literal["refuse", "replace", "skip"],
    *,
    default: str,
    is_one: bool,
) -> tuple[Output, tuple[str, ...]]:
    """Where results go, and their formats.

    output: a file where it ends as one of the formats does, or is one; else a folder.
    extensions: of files, by format; of several formats with one extension the first is that of a file's name.
    is_one: there is one recording.
    raises: OutputInvalid
    """
    if output is None:
        is_folder = len(formats) > 1
        return Output(Path() if is_folder else None, None, existing), tuple(formats) or (default,)
    path = Path(output)
    if path.exists() and not path.is_dir() and not path.is_file():
        raise OutputInvalid(f"-o {output} is neither a folder nor a file")
    by_suffix = [form for form, extension in extensions.items() if path.suffix.lower() == f".{extension}"]
    if path.is_dir() or output.endswith(os.sep) or not (by_suffix or path.is_file()):
        return Output(path, None, existing), tuple(formats) or (default,)
    wanted = tuple(formats) or (*by_suffix[:1],) or (default,)
    if not is_one or len(wanted) > 1:
        several = "formats" if is_one else "recordings"
        raise OutputInvalid(f"-o {output} is one file for several {several}; name a folder with -o DIR/")
    return Output(None, path, existing), wanted


def find_recordings(names: Sequence[str], *, recursive: bool) -> list[Recording]:
    """The recordings that were named, and with `recursive` those in folders, each with a name for its results.

    That name is the file's own without extension, the whole one where two would be the same, numbered where those are
    too; compared without case, as macOS does. Results of a folder lie as its recordings do.
    """
    found: list[tuple[str, Path]] = []
    for name in names:
        inside = list(_inside(Path(name))) if recursive and name != STANDARD_INPUT else []
        found += [(str(path), path.relative_to(name)) for path in inside]
        if not inside:
            found.append((name, Path("stdin" if name == STANDARD_INPUT else Path(name).name or "recording")))
    stems = Counter(str(path.parent / path.stem).casefold() for _, path in found)
    taken: set[str] = set()
    recordings = []
    for name, path in found:
        stem = path.parent / path.stem
        base = candidate = stem if stems[str(stem).casefold()] == 1 else path
        number = 1
        while str(candidate).casefold() in taken:
            number += 1
            candidate = base.with_name(f"{base.name}-{number}")
        taken.add(str(candidate).casefold())
        recordings.append(Recording(name, candidate, _problem_of(name, recursive)))
    return recordings


def _problem_of(name: str, recursive: bool) -> str | None:
    try:
        is_folder = name != STANDARD_INPUT and stat.S_ISDIR(os.stat(name).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if not is_folder:
        return None
    return "no recording is in it" if recursive else "is a folder; --recursive takes what is in it"


def _inside(folder: Path) -> Iterator[Path]:
    """Recordings in a folder and its folders, in order; hidden ones and links to folders are left out."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and _NAMES_OF_RECORDINGS.fullmatch(name):
                yield Path(where, name)


def planned(
    recordings: Sequence[Recording], formats: Sequence[str], output: Output, extensions: Mapping[str, str]
) -> list[Planned]:
    """What is to be written of each recording, judged by the files that exist now."""
    return [_planned(one, recordings, formats, output, extensions) for one in recordings]


def _planned(
    recording: Recording,
    recordings: Sequence[Recording],
    formats: Sequence[str],
    output: Output,
    extensions: Mapping[str, str],
) -> Planned:
    if recording.problem is not None:
        return Planned(recording, problem=recording.problem)
    if output.file is not None:
        targets = {formats[0]: output.file}
    elif output.folder is not None:
        sharing = Counter(extensions[form] for form in formats)
        targets = {
            form: output.folder / f"{recording.result}.{_ending(form, extensions[form], sharing)}"
            for form in formats
        }
    else:
        return Planned(recording)
    there = {form: target for form, target in targets.items() if target.exists()}
    for target in there.values():
        if any(_is_same(target, one.name) for one in recordings):
            return Planned(
                recording,
                problem=f"its result would overwrite the input {target}; choose another folder with -o",
            )
    if output.existing == "skip":
        left = {form: target for form, target in targets.items() if form not in there}
        return Planned(recording, left, is_done=not left)
    if there and output.existing == "refuse":
        first = next(iter(there.values()))
        return Planned(
            recording,
            problem=f"{first} is there already; --force replaces it, --skip-existing passes over it",
        )
    return Planned(recording, targets)


def _ending(form: str, extension: str, sharing: Counter[str]) -> str:
    return extension if form == extension or sharing[extension] == 1 else f"{form}.{extension}"


def _is_same(target: Path, name: str) -> bool:
    return name != STANDARD_INPUT and os.path.exists(name) and target.samefile(name)


def write_whole(target: Path, content: str) -> None:
    """Write text as UTF-8 in place of the old file, in a folder that is made; raises OSError and leaves it then."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        # mkstemp makes files that only their owner may read; a result has the rights of any new file.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
