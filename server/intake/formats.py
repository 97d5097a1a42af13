"""The response formats: their names, media types and files, and what a request of each may ask for and needs.

The one place in the server that knows them: requests, answers, jobs' results, the shell commands, the description of
the API and the README's table derive from FORMATS. Neither pydantic nor a web framework is imported, which the shell
commands have no use for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from scribewire.engine.protocol.transcript import Transcript
from scribewire.engine.subtitles import RENDERERS, cues_from_transcript

Part = Literal["stream", "words", "logprobs", "speakers"]


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """One response format.

    about: for the description of the API and the README. extension: of files.
    render: the text of a transcript; None for a document in JSON (scribewire.server.routes.documents).
    takes: what may be asked for with it: `stream`, word granularity, `include` of log-probabilities.
    wants: what the engine computes for it: averages of log-probabilities, speakers, and words where an aligner is
    installed (the times of segments otherwise).
    """

    name: str
    content_type: str
    extension: str
    about: str
    render: Callable[[Transcript], str] | None = None
    takes: tuple[Part, ...] = ()
    wants: tuple[Part, ...] = ()

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.content_type.partition(";")[0]

    @property
    def is_json(self) -> bool:
        """True for a JSON document."""
        return self.extension == "json"


def _subtitles(name: str, media_type: str, about: str) -> ResponseFormat:
    def render(transcript: Transcript) -> str:
        return RENDERERS[name](cues_from_transcript(transcript))

    about = f"{about}, with word times where an aligner is installed"
    return ResponseFormat(name, f"{media_type}; charset=utf-8", name, about, render, wants=("words",))


def _document(name: str, about: str, takes: tuple[Part, ...], wants: tuple[Part, ...] = ()) -> ResponseFormat:
    return ResponseFormat(name, "application/json", "json", about, takes=takes, wants=wants)


FORMATS: Mapping[str, ResponseFormat] = {
    one.name: one
    for one in (
        _document("json", "text, languages and usage", takes=("stream", "logprobs")),
        ResponseFormat(
            "text",
            "text/plain; charset=utf-8",
            "txt",
            "the text and a line break",
            lambda transcript: transcript.text + "\n",
            takes=("stream",),
        ),
        _subtitles("srt", "application/x-subrip", "SubRip"),
        _document(
            "verbose_json",
            "text with segments, and words where they are asked for",
            takes=("words",),
            wants=("logprobs",),
        ),
        _subtitles("vtt", "text/vtt", "WebVTT"),
        _subtitles("tsv", "text/tab-separated-values", "a header line, then start and end in ms and text"),
        _document(
            "diarized_json",
            "text with segments and their speakers",
            takes=("stream",),
            wants=("words", "speakers"),
        ),
    )
}
DEFAULT_FORMAT = "json"


def names_of_formats(takes: Part | None = None) -> str:
    """The names of all formats, or of those that take something, as a sentence lists them."""
    *others, last = [one.name for one in FORMATS.values() if takes is None or takes in one.takes]
    return f"{', '.join(others)} or {last}" if others else last
