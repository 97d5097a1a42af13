"""Transcripts as answers: in any response format and as events, with headers that name the model and the warnings.

The documents in JSON have the fields of OpenAI's API.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from starlette.responses import Response

from scribewire.engine.protocol import transcript as spoken
from scribewire.engine.protocol.attribution import UNKNOWN_SPEAKER
from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.transcript import NO_WORD_TIMES, Transcript
from scribewire.server.http.answers import Answer, Count, about, long_value, optional
from scribewire.server.intake.formats import ResponseFormat
from scribewire.server.observability.logs import cut

NO_LANGUAGE = "unknown"
"""verbose_json's language where there was no speech; the field is a required text."""

LEAST_LOGPROB = -9999.0
"""Logarithm of a probability of zero, since JSON has no infinity. Source: OpenAI's API reference, `logprob`."""

_FRAMES_PER_SECOND = 100


MODEL_HEADER = "x-scribewire-model"
WARNING_HEADER = "x-scribewire-warning"

DEMO_WARNING = (
    "answered by the bundled demo model, a small model for trying things out, not for real transcription"
)

LONG_BYTES = 50_000
"""About what an answer takes that is made on the event loop at most: some milliseconds."""

_WORD_BYTES = 50
_LONG_ANSWERS = ThreadPoolExecutor(1, thread_name_prefix="long-answers")


def _finite(value: float | None) -> float:
    """A number for JSON, which has no NaN and no infinities."""
    return round(value, 6) if value is not None and math.isfinite(value) else 0.0


Finite = BeforeValidator(_finite)
Seconds = Annotated[float, about("Seconds of the recording.", minimum=0), Finite]
FromZero = Annotated[float, about(minimum=0), Finite]
UpToZero = Annotated[float, about(maximum=0), Finite]
Share = Annotated[float, about(minimum=0, maximum=1), Finite]
Warnings = Annotated[
    list[str],
    about(
        "Plain sentences about this answer, such as that a truncated file was transcribed up to its end. Left out when "
        "there are none.",
        minItems=1,
    ),
]


class TokenLogprob(Answer):
    """A token of the text and its natural log-probability."""

    token: str = about(of="text")
    bytes: Annotated[list[Annotated[int, about(minimum=0, maximum=255)]], BeforeValidator(list)] = about(
        of="data"
    )
    logprob: Annotated[float, BeforeValidator(lambda value: max(value, LEAST_LOGPROB)), about(maximum=0)]


class LanguageCode(Answer):
    """A language by its ISO code."""

    code: str


class InputTokens(Answer):
    """Tokens of the recording and of the prompt."""

    audio_tokens: Count
    text_tokens: Count


class TokenUsage(Answer):
    """Usage in tokens."""

    type: Literal["tokens"] = "tokens"
    input_tokens: Count
    input_token_details: InputTokens
    output_tokens: Count
    total_tokens: Count


class DurationUsage(Answer):
    """Usage in seconds."""

    type: Literal["duration"] = "duration"
    seconds: Seconds


class Transcription(Answer):
    """response_format=json."""

    text: str
    languages: list[LanguageCode] = about(
        "Languages recognized, in order of appearance; empty where there was no speech."
    )
    logprobs: list[TokenLogprob] | None = optional("Only with include[]=logprobs.")
    usage: TokenUsage | DurationUsage = about("In seconds for whisper-1, in tokens for every other name.")
    warnings: Warnings | None = optional()


class Word(Answer):
    """A word with its punctuation. Chinese, Cantonese: every character."""

    word: str = about(of="text")
    start: Seconds = about(of="start_seconds")
    end: Seconds = about(of="end_seconds")


Words = Annotated[list[Word], about("Only with timestamp_granularities[]=word.")]


class Segment(Answer):
    """One segment with all ten fields, which strict clients require."""

    id: Count = about(of="index")
    seek: Annotated[int, BeforeValidator(lambda seconds: int(seconds * _FRAMES_PER_SECOND))] = about(
        "The start in units of 10 ms.", of="start_seconds", minimum=0
    )
    start: Seconds = about(of="start_seconds")
    end: Seconds = about(of="end_seconds")
    text: str
    tokens: list[Count]
    temperature: FromZero
    avg_logprob: UpToZero
    compression_ratio: FromZero
    no_speech_prob: Share


class VerboseTranscription(Answer):
    """response_format=verbose_json."""

    task: Literal["transcribe"] = "transcribe"
    language: str = about("English name in lower case, `unknown` where there was no speech.")
    duration: Seconds
    text: str
    segments: list[Segment] | None = optional("Left out where timestamp_granularities[] is word alone.")
    words: Words | None = optional()
    usage: DurationUsage
    warnings: Warnings | None = optional()


class DiarizedSegment(Answer):
    """What one speaker says; also an event of a stream."""

    type: Literal["transcript.text.segment"] = "transcript.text.segment"
    id: Annotated[str, BeforeValidator(lambda index: f"seg_{index + 1:03}")] = about(
        of="index", pattern="^seg_[0-9]{3,}$"
    )
    start: Seconds = about(of="start_seconds")
    end: Seconds = about(of="end_seconds")
    text: str
    speaker: Annotated[str, BeforeValidator(lambda speaker: speaker or UNKNOWN_SPEAKER)] = about(
        "A known name, else A, B, C in the order in which they are first heard.", minLength=1
    )


class DiarizedTranscription(Answer):
    """response_format=diarized_json."""

    task: Literal["transcribe"] = "transcribe"
    duration: Seconds
    text: str
    segments: list[DiarizedSegment]
    usage: DurationUsage
    warnings: Warnings | None = optional()


class TextDeltaEvent(Answer):
    """An event of a stream: more of the text."""

    type: Literal["transcript.text.delta"]
    delta: str
    segment_id: str | None = optional("The segment that follows with this text; only with diarized_json.")
    logprobs: list[TokenLogprob] | None = optional()


class TextDoneEvent(Transcription):
    """The last event of a stream, with all of the text."""

    type: Literal["transcript.text.done"]
    usage: TokenUsage


def transcription(
    transcript: Transcript, info: ModelInfo, *, with_logprobs: bool = False, by_duration: bool = False
) -> Transcription:
    """The body of response_format=json. by_duration: usage in seconds."""
    code_of = dict(zip(info.languages, info.language_codes, strict=False))
    usage = transcript.usage
    return Transcription.model_validate(
        {
            "text": transcript.text,
            "languages": [{"code": code_of[one]} for one in transcript.languages if one in code_of],
            "logprobs": logprobs_of(transcript_logprobs(transcript)) if with_logprobs else None,
            "usage": {"seconds": transcript.duration_seconds}
            if by_duration
            else {
                "input_tokens": usage.input_tokens,
                "input_token_details": {
                    "audio_tokens": usage.audio_tokens,
                    "text_tokens": usage.text_tokens,
                },
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.total_tokens,
            },
            "warnings": transcript.warnings or None,
        }
    )


def transcript_logprobs(transcript: Transcript) -> tuple[spoken.TokenLogprob, ...]:
    """Log-probabilities of all segments, in order."""
    return tuple(one for segment in transcript.segments for one in segment.token_logprobs)


def logprobs_of(logprobs: Iterable[spoken.TokenLogprob]) -> list[TokenLogprob]:
    """`logprobs` of json and of a stream's events."""
    return [TokenLogprob.model_validate(one) for one in logprobs]


def words_of(transcript: Transcript, options: TranscribeOptions) -> list[spoken.Word] | None:
    """Words of all segments; None unless they were asked for, and not only by subtitles."""
    if not options.words or options.words_optional:
        return None
    return [word for segment in transcript.segments for word in segment.words]


def shown_warnings(transcript: Transcript, *, with_words: bool) -> tuple[str, ...]:
    """The warnings that concern an answer; with_words: it has times of words, or would have them."""
    return tuple(one for one in transcript.warnings if with_words or not one.startswith(NO_WORD_TIMES))


def _timed(transcript: Transcript) -> dict[str, Any]:
    """What both formats with times have."""
    return {
        "duration": transcript.duration_seconds,
        "text": transcript.text,
        "segments": transcript.segments,
        "usage": {"seconds": transcript.duration_seconds},
        "warnings": transcript.warnings or None,
    }


def rendered(
    response_format: ResponseFormat,
    transcript: Transcript,
    info: ModelInfo,
    options: TranscribeOptions,
    *,
    by_duration: bool = False,
    with_segments: bool = True,
) -> str:
    """The body of a transcript in one format, for the options it was made with.

    by_duration: the usage of json in seconds. with_segments: those of verbose_json.
    """
    if response_format.render is not None:
        return response_format.render(transcript)
    match response_format.name:
        case "json":
            with_logprobs = options.token_logprobs
            return transcription(
                transcript, info, with_logprobs=with_logprobs, by_duration=by_duration
            ).json_text()
        case "diarized_json":
            return DiarizedTranscription.model_validate(_timed(transcript)).json_text()
    language = (transcript.language or NO_LANGUAGE).lower()
    values = {**_timed(transcript), "language": language, "words": words_of(transcript, options)}
    if not with_segments:
        del values["segments"]
    return VerboseTranscription.model_validate(values).json_text()


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

    def make_long() -> Response:
        with long_value():
            return make()

    return await asyncio.get_running_loop().run_in_executor(_LONG_ANSWERS, make_long)


def _words(transcript: Transcript) -> int:
    return sum(len(one.words) + len(one.token_logprobs) for one in transcript.segments)


def answer(
    transcript: Transcript,
    info: ModelInfo,
    response_format: ResponseFormat,
    options: TranscribeOptions,
    **details: bool,
) -> Response:
    """A whole transcript in one format. details: as of `rendered`."""
    # Set as a header, because Starlette adds a charset to text/* by itself.
    headers = {
        **answer_headers(info, transcript.warnings),
        "content-type": response_format.content_type,
    }
    return Response(rendered(response_format, transcript, info, options, **details), headers=headers)


def _header_text(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return cut(printable).encode("ascii", "backslashreplace").decode("ascii")
