"""What a decoded sequence says: tokens to a segment of transcript."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from engine.batching.sequence import Ending, Marks, Sequence
from engine.protocol.transcript import Segment
from engine.text.languages import LANGUAGES
from engine.text.prompt import parse_output
from engine.text.tokenizer import ASR_TEXT, Tokenizer

_LANGUAGE_NAMES = frozenset(language.name for language in LANGUAGES)


def recognition_marks(tokenizer: Tokenizer) -> Marks:
    """The ids that decoding must know, found by how this tokenizer writes `language None`."""
    none = tokenizer.encode_text("language None")
    english = tokenizer.encode_text("language English")
    shared = 0
    while shared < min(len(none), len(english)) and none[shared] == english[shared]:
        shared += 1
    return Marks(end_ids=tokenizer.end_ids, none_prefix=tuple(none[:shared]), none_token=none[shared])


def read_sequence(
    sequence: Sequence,
    tokenizer: Tokenizer,
    *,
    forced_language: str | None,
    index: int,
    start_seconds: float,
    end_seconds: float,
) -> Segment:
    """The segment that an ended sequence stands for; its text is empty where no speech was heard."""
    parsed = parse_output(tokenizer.decode(sequence.tokens), forced_language)
    notice = None
    if sequence.ending is Ending.BUDGET:
        notice = (
            f"the text from {start_seconds:.1f} s to {end_seconds:.1f} s was stopped at its budget of "
            f"{sequence.token_budget} tokens and may be incomplete"
        )
    return Segment(
        index=index,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        text=parsed.text,
        language=parsed.language if parsed.language in _LANGUAGE_NAMES else None,
        tokens=tuple(_after_head(sequence.tokens, tokenizer.token_id(ASR_TEXT))),
        temperature=sequence.temperature,
        avg_logprob=sum(sequence.logprobs) / len(sequence.logprobs) if sequence.logprobs else None,
        compression_ratio=compression_ratio(parsed.text),
        no_speech_prob=sequence.no_speech_prob,
        notice=notice,
    )


def compression_ratio(text: str) -> float:
    """UTF-8 bytes over zlib-compressed bytes, as Whisper's tools define it; 0 for no text."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def main_language(segments: Iterable[Segment]) -> str | None:
    """The language that most of the speaking time is in; the earlier one wins a tie."""
    seconds: dict[str, float] = {}
    for segment in segments:
        if segment.language:
            spoken = segment.end_seconds - segment.start_seconds
            seconds[segment.language] = seconds.get(segment.language, 0.0) + spoken
    return max(seconds, key=seconds.__getitem__) if seconds else None


def _after_head(tokens: list[int], asr_text_id: int) -> list[int]:
    """Tokens of the text alone, without `language X<asr_text>`."""
    if asr_text_id in tokens:
        return tokens[tokens.index(asr_text_id) + 1 :]
    return tokens
