"""From tokens to text: the segment of a sequence, ended or still being decoded, and text that is sent while it grows.

Of text that is sent while it is decoded, what went out stays, and all of it together is the transcript. Chunks of a
recording are decoded side by side, but only the earliest unfinished one sends; the others wait until they are the
earliest.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scribewire.engine.batching.sequence import FinishReason, Sequence, SpecialTokens, drop_repeats
from scribewire.engine.protocol.languages import LANGUAGES, join_texts
from scribewire.engine.protocol.transcript import Segment, TokenLogprob
from scribewire.engine.text.prompt import is_head, parse_output
from scribewire.engine.text.tokenizer import ASR_TEXT, Tokenizer

DeltaCallback = Callable[[str, tuple[TokenLogprob, ...]], None]
"""Called with text that follows all text before it, and the log-probabilities of its tokens."""

ChunkCallback = Callable[[float], None]
"""Called with the start, in seconds, of the chunk whose text comes next."""

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


class StreamingText:
    """The text of one recording as it grows."""

    def __init__(self, on_delta: DeltaCallback, on_chunk: ChunkCallback | None = None) -> None:
        self._on_delta = on_delta
        self._on_chunk = on_chunk
        self._last_character = ""
        self._last_language: str | None = None
        self._sent = ""
        self._waiting: list[TokenLogprob] = []
        self.logprobs_taken = 0

    @property
    def sent(self) -> str:
        """Text that the current chunk has sent."""
        return self._sent

    def grow(
        self,
        text: str,
        language: str | None,
        logprobs: tuple[TokenLogprob, ...],
        start_seconds: float = 0.0,
    ) -> None:
        """Send what is new in the current chunk's text; logprobs: of its tokens behind the `logprobs_taken` first."""
        self._waiting += logprobs
        self.logprobs_taken += len(logprobs)
        self._send(_certain(text), language, start_seconds)

    def finish(
        self,
        text: str,
        language: str | None,
        logprobs: tuple[TokenLogprob, ...],
        start_seconds: float = 0.0,
    ) -> str:
        """End the current chunk with its text. Returns the text that it must have, now that some of it was sent.

        They differ only where a second attempt heard otherwise; what was sent is kept. logprobs: of all its tokens.
        """
        self._waiting += logprobs[self.logprobs_taken :]
        text = continued(self._sent, text.strip())
        self._send(text, language, start_seconds)
        if text:
            self._last_character, self._last_language = text[-1], language
        self._sent, self._waiting = "", []
        self.logprobs_taken = 0
        return text

    def _send(self, text: str, language: str | None, start_seconds: float) -> None:
        if len(text) <= len(self._sent):
            return
        if not self._sent and self._on_chunk is not None:
            self._on_chunk(start_seconds)
        delta = text[len(self._sent) :]
        if not self._sent and self._last_character:
            joined = join_texts([(self._last_character, self._last_language), (text, language)])
            delta = joined[len(self._last_character) :]
        self._sent = text
        logprobs, self._waiting = tuple(self._waiting), []
        self._on_delta(delta, logprobs)


def _certain(text: str) -> str:
    """Text without what the next token may change: a character whose bytes are not all there, whitespace at the end."""
    return text.rstrip("\ufffd").strip()


def continued(sent: str, text: str) -> str:
    """`text`, beginning with `sent`: where it does not by itself, `sent` and what of `text` follows it.

    By words, or by characters in a text without spaces. It follows where the fewest words of `sent` would have to be
    changed to get there (edit distance); of equal places the one nearest to as many words as were sent.
    """
    if text.startswith(sent):
        return text
    space = " " if " " in text.strip() else ""
    said = sent.casefold().split() if space else list(sent)
    words = text.split() if space else list(text)
    # costs[k]: changes between all of `said` so far and the first k words.
    costs = list(range(len(words) + 1))
    for place, word in enumerate(said, start=1):
        before, costs[0] = costs[0], place
        for k, other in enumerate(words, start=1):
            same = before + (word != other.casefold())
            before, costs[k] = costs[k], min(same, costs[k] + 1, costs[k - 1] + 1)
    best = min(range(len(costs)), key=lambda k: (costs[k], abs(k - len(said))))
    rest = space.join(words[best:])
    return f"{sent}{space}{rest}" if rest else sent
