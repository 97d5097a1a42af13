"""Columns of the table `jobs` as a job's values, and what becomes of those that cannot be read.

SQLite keeps whatever is written into a column, and a disk may change it: a row may hold what no version of this program
wrote. Reading it raises RowDamaged, with the row's number, so that it ends its own job and no other.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from scribewire.server.jobs.job import Job, JobFailure, JobStatus
from scribewire.server.jobs.serialization import deaths_from_json, failure_from_json, parameters_from_json

AUDIO_ID = re.compile("[0-9a-f]{32}")
"""Names of recordings; anything else in their column could be a path."""


class RowDamaged(Exception):
    """A row that cannot be read; columns: names of those that cannot."""

    def __init__(self, seq: int, columns: str) -> None:
        super().__init__(f"row {seq}: {columns}")
        self.seq = seq
        self.columns = columns

    def failure(self) -> JobFailure:
        """The failure of its job."""
        return JobFailure(
            "job_unreadable",
            f"What the server kept of this job is damaged ({self.columns}). Submit the recording again.",
            "server_error",
        )


def of_type(*types: type[Any]) -> Callable[[Any], Any]:
    """A reader of values of these types; raises TypeError for others."""

    def read(value: Any) -> Any:
        if not isinstance(value, types):
            raise TypeError("a value of another type")
        return value

    return read


def one_of(kind: Any) -> Callable[[Any], Any]:
    """A reader of a literal type's values; raises KeyError for others."""
    return {value: value for value in get_args(kind)}.__getitem__


def or_null(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A reader that also reads NULL."""
    return lambda value: None if value is None else read(value)


text, number, count = of_type(str), of_type(float, int), of_type(int)


def new_job_id() -> str:
    """A new id of a job."""
    return "job_" + secrets.token_hex(16)


def _audio_id(value: Any) -> str:
    if not AUDIO_ID.fullmatch(value):
        raise ValueError("not the name of a recording")
    return str(value)


@dataclass(frozen=True, slots=True)
class _Column:
    """read: raises any exception for what it cannot read. replacement: of such a value."""

    read: Callable[[Any], Any]
    replacement: Callable[[], Any] = lambda: None


_COLUMNS = {
    "job_id": _Column(text, new_job_id),
    "owner": _Column(text, str),
    "status": _Column(one_of(JobStatus), lambda: "processing"),
    "options": _Column(parameters_from_json, lambda: "{}"),
    "result_format": _Column(text, lambda: "json"),
    "callback_url": _Column(or_null(text)),
    "created_at": _Column(number, time.time),
    "started_at": _Column(or_null(number)),
    "finished_at": _Column(or_null(number)),
    "audio_id": _Column(or_null(_audio_id)),
    "audio_seconds_done": _Column(number, float),
    "audio_seconds_total": _Column(or_null(number)),
    "attempts": _Column(count, int),
    "deaths": _Column(deaths_from_json, lambda: "[]"),
    "claim_number": _Column(count, int),
    "is_demo": _Column(bool),
    "failure": _Column(failure_from_json),
}
JOB_COLUMNS = ", ".join(["seq", *_COLUMNS])


def job_of(row: sqlite3.Row) -> Job:
    """The job of a row of JOB_COLUMNS, without its texts and its queue position; raises RowDamaged.

    A claimed job whose decoding has not begun is `queued`, though its row is fenced as one that is processed.
    """
    values, damaged = _values_of(row)
    if damaged:
        raise RowDamaged(row["seq"], ", ".join(damaged))
    if values["status"] == "processing" and values["started_at"] is None:
        values["status"] = "queued"
    del values["claim_number"]
    has_audio = values.pop("audio_id") is not None
    parameters = values.pop("options")
    return Job(**values, **parameters, has_audio=has_audio)


def replacements(row: sqlite3.Row) -> dict[str, Any]:
    """New values of the columns of a row of JOB_COLUMNS that cannot be read, by name."""
    return {name: _COLUMNS[name].replacement() for name in _values_of(row)[1]}


def _values_of(row: sqlite3.Row) -> tuple[dict[str, Any], list[str]]:
    values, damaged = {}, []
    for name, column in _COLUMNS.items():
        try:
            values[name] = column.read(row[name])
        except Exception:  # a damaged text may hold anything
            damaged.append(name)
    return values, damaged
