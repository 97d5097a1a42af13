"""A sequence's tokens to a segment of transcript, at its end and while it is being decoded."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from scribewire.engine.batching.sequence import FinishReason, Sequence, SpecialTokens, drop_repeats
from scribewire.engine.protocol.transcript import Segment, TokenLogprob
from scribewire.engine.text.languages import LANGUAGES
from scribewire.engine.text.prompt import is_head, parse_output
from scribewire.engine.text.tokenizer import ASR_TEXT, Tokenizer

_LANGUAGE_NAMES = frozenset(language.name for language in LANGUAGES)
_HEAD = "language "
_LONGEST_HEAD = len(_HEAD) + max(len(name) for name in _LANGUAGE_NAMES)


def asr_special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """The ids that decoding must know, found by how this tokenizer writes `language None`."""
    none = tokenizer.encode_text("language None")
    english = tokenizer.encode_text("language English")
    shared = 0
    while shared < min(len(none), len(english)) and none[shared] == english[shared]:
        shared += 1
    return SpecialTokens(end_ids=tokenizer.end_ids, none_prefix=tuple(none[:shared]), none_token=none[shared])


def read_sequence(
    sequence: Sequence,
    tokenizer: Tokenizer,
    *,
    forced_language: str | None,
    index: int,
    start_seconds: float,
    end_seconds: float,
    with_token_logprobs: bool = False,
) -> Segment:
    """The segment of an ended sequence; its text is empty where no speech was heard.

    Of a sequence that ended in a loop, the repeats are left out and the segment's notice says so.
    """
    loop = None if sequence.guard is None else sequence.guard.loop
    tokens = sequence.tokens if loop is None else drop_repeats(sequence.tokens, loop)
    was_watched = sequence.guard is not None
    parsed = parse_output(tokenizer.decode(tokens), forced_language, keeps_repeats=was_watched)
    head = head_length(tokens, tokenizer, forced_language)
    text = parsed.text
    if (
        sequence.finish_reason is not FinishReason.END_TOKEN
        and forced_language is None
        and not head
        and _may_be_a_head(text)
    ):
        text = ""  # stopped before its text began
    where = f"from {start_seconds:.1f} s to {end_seconds:.1f} s"
    notice = None
    if sequence.finish_reason is FinishReason.BUDGET:
        notice = f"the text {where} was stopped at its budget of {sequence.token_budget} tokens and may be incomplete"
    elif loop is not None:
        notice = (
            f"the text {where} ended in a loop: {loop.repeats} times the same {loop.period} tokens. The repeats were "
            "left out, and it may be incomplete"
        )
    return Segment(
        index=index,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        text=text,
        language=parsed.language if parsed.language in _LANGUAGE_NAMES else None,
        tokens=tuple(tokens[head:]),
        temperature=sequence.options.temperature,
        avg_logprob=sum(sequence.logprobs) / len(sequence.logprobs) if sequence.logprobs else None,
        compression_ratio=compression_ratio(text),
        no_speech_prob=sequence.no_speech_prob,
        notice=notice,
        token_logprobs=read_logprobs(sequence, tokenizer, head, len(tokens)) if with_token_logprobs else (),
    )


def read_logprobs(
    sequence: Sequence, tokenizer: Tokenizer, start: int, stop: int
) -> tuple[TokenLogprob, ...]:
    """The log-probabilities of some of a sequence's tokens, as far as they were kept."""
    found = []
    for token, logprob in zip(sequence.tokens[start:stop], sequence.logprobs[start:stop], strict=False):
        data = tokenizer.token_bytes(token)
        found.append(TokenLogprob(data.decode("utf-8", "replace"), data, logprob))
    return tuple(found)


def head_length(tokens: list[int], tokenizer: Tokenizer, forced_language: str | None) -> int:
    """Tokens of `language X<asr_text>` at the beginning, 0 where they are not; as parse_output sees it."""
    tag = tokenizer.token_id(ASR_TEXT)
    if tag not in tokens:
        return 0
    length = tokens.index(tag) + 1
    if forced_language is not None and not is_head(tokenizer.decode(tokens[:length])):
        return 0
    return length


@dataclass(frozen=True, slots=True)
class TextSoFar:
    """The certain text of an unended sequence, so far.

    token_count: of all tokens that were read for it, the head included.
    """

    text: str
    language: str | None
    token_count: int


def read_so_far(sequence: Sequence, tokenizer: Tokenizer, *, forced_language: str | None) -> TextSoFar | None:
    """The text of all tokens that no loop can take back; None while the start of the text is not certain."""
    held = 0 if sequence.guard is None else sequence.guard.held_count
    tokens = sequence.tokens[: len(sequence.tokens) - held]
    head = head_length(tokens, tokenizer, forced_language)
    text = tokenizer.decode(tokens[head:])
    if head:
        parsed = parse_output(tokenizer.decode(tokens[:head]), forced_language)
        language = forced_language or parsed.language
    elif forced_language is None or _may_be_a_head(text):
        return None
    else:
        language = forced_language
    return TextSoFar(text, language if language in _LANGUAGE_NAMES else None, len(tokens))


def _may_be_a_head(text: str) -> bool:
    """True when a model whose language was forced may be about to write the head all the same."""
    begun = text.lstrip().lower()
    return _HEAD.startswith(begun) or (begun.startswith(_HEAD) and len(begun) <= _LONGEST_HEAD)


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
