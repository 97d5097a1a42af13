"""Transcripts: frozen values that cross the process boundary unchanged.

Times are seconds of the recording. Nothing here knows how a transcript is made or sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Word:
    """One word with the punctuation that belongs to it, and when it was said.

    spacing: the text between the word before and this one in the segment's text, a space or nothing. The spacings
    and texts of a segment's words, joined in order, are the segment's text (`words_text`).
    """

    text: str
    start_seconds: float
    end_seconds: float
    spacing: str = " "


def words_text(words: Iterable[Word]) -> str:
    """The text that these words were taken from, without the spacing before the first."""
    return "".join(word.spacing + word.text if index else word.text for index, word in enumerate(words))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of the text and its natural log-probability under the model, before temperature and penalties.

    data: its UTF-8 bytes, which may be a part of a character; text: the same with a replacement character there.
    """

    text: str
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of transcript with start and end.

    language: English name as in the language table, or None where no speech was recognized.
    tokens: the ids that were generated for `text` (the language head and end tokens are left out).
    avg_logprob: mean natural log-probability of the generated tokens, end token included; None when not requested.
    compression_ratio: UTF-8 bytes of the text over its zlib-compressed bytes (high means repetitive).
    no_speech_prob: probability of ` None` where the model names the language; None when not requested.
    notice: a plain sentence when something about this segment deserves one (budget exhausted, a loop cut).
    words: each word with its times, when requested and where the aligner knows the language.
    token_logprobs: one entry for each of `tokens`, when requested.
    speaker: the speaker's name, where speakers are told apart.
    """

    index: int
    start_seconds: float
    end_seconds: float
    text: str
    language: str | None
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float | None = None
    compression_ratio: float = 0.0
    no_speech_prob: float | None = None
    words: tuple[Word, ...] = ()
    notice: str | None = None
    token_logprobs: tuple[TokenLogprob, ...] = ()
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that went in and came out, summed over the chunks of a recording."""

    audio_tokens: int = 0
    text_tokens: int = 0
    output_tokens: int = 0

    @property
    def input_tokens(self) -> int:
        """Audio and text tokens of the prompts together."""
        return self.audio_tokens + self.text_tokens

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """The engine's time by phase, in seconds, for logs and benchmarks.

    encode_seconds: of log-mel frames and encoder; on a GPU, until they are handed over, and what the device still takes
    counts as prefill. prefill_seconds: from there to the first token, of all batches. generate_seconds: the rest of
    decoding.
    align_seconds: finding the times of words, where they were requested.
    """

    decode_audio_seconds: float = 0.0
    encode_seconds: float = 0.0
    prefill_seconds: float = 0.0
    generate_seconds: float = 0.0
    align_seconds: float = 0.0
    total_seconds: float = 0.0


NO_WORD_TIMES = "no word times"
"""Beginning of the warning where words were wanted and not found."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The result of one recording.

    language: the language of most of the speech (English name), None when there was no speech.
    languages: every language recognized, in order of appearance, without repeats.
    warnings: plain sentences, such as that a cut-off file was transcribed as far as it went.
    """

    text: str
    language: str | None
    languages: tuple[str, ...]
    duration_seconds: float
    segments: tuple[Segment, ...]
    model_id: str
    usage: TokenUsage = field(default_factory=TokenUsage)
    warnings: tuple[str, ...] = ()
    timings: Timings = field(default_factory=Timings)
