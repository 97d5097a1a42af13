"""Transcripts as answers, in any response format, with the headers that name the model and the warnings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.responses import Response

from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.http.answers import Answer
from scribewire.server.intake.formats import ResponseFormat
from scribewire.server.observability.logs import cut
from scribewire.server.routes.documents import rendered

MODEL_HEADER = "x-scribewire-model"
WARNING_HEADER = "x-scribewire-warning"

DEMO_WARNING = (
    "answered by the bundled demo model, a small model for trying things out, not for real transcription"
)

LONG_BYTES = 50_000
"""About what an answer takes that is made on the event loop at most: some milliseconds."""

_WORD_BYTES = 50
_LONG_ANSWERS = ThreadPoolExecutor(1, thread_name_prefix="long-answers")


def answer_headers(info: ModelInfo, warnings: tuple[str, ...] = ()) -> dict[str, str]:
    """Headers with the model's name and the warnings; demo answers always carry one."""
    headers = {MODEL_HEADER: _header_text("demo" if info.is_demo else info.model_id)}
    notes = ((DEMO_WARNING,) if info.is_demo else ()) + warnings
    if notes:
        headers[WARNING_HEADER] = "; ".join(_header_text(note) for note in notes[:10])
    return headers


def json_answer(body: Answer, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A body in JSON."""
    return Response(body.json_text(), status_code=status, headers=headers, media_type="application/json")


async def made_apart(transcript: Transcript | None, make: Callable[[], Response]) -> Response:
    """The answer that `make` returns; made in a thread where the transcript is long, so that no other request waits.

    One at a time, because each takes turns with the event loop.
    """
    if transcript is None or len(transcript.text) + _WORD_BYTES * _words(transcript) < LONG_BYTES:
        return make()
    return await asyncio.get_running_loop().run_in_executor(_LONG_ANSWERS, make)


def _words(transcript: Transcript) -> int:
    return sum(len(one.words) + len(one.token_logprobs) for one in transcript.segments)


def answer(
    transcript: Transcript, info: ModelInfo, response_format: ResponseFormat, options: TranscribeOptions
) -> Response:
    """A whole transcript in one format."""
    # Set as a header, because Starlette adds a charset to text/* by itself.
    headers = {
        **answer_headers(info, transcript.warnings),
        "content-type": response_format.content_type,
    }
    return Response(rendered(response_format, transcript, info, options), headers=headers)


def _header_text(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return cut(printable).encode("ascii", "backslashreplace").decode("ascii")
