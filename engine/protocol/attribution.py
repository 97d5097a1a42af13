"""Speakers for a transcript's segments, joined with the speakers' turns by overlap in time.

A word belongs to the speaker of most of it, a word outside all turns to the nearest turn. Segments are split where
the speaker changes. A segment without word times belongs to the speaker of most of it. Words are neither changed
nor moved.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from scribewire.engine.protocol.speakers import SpeakerTurn
from scribewire.engine.protocol.transcript import Segment, Transcript, Word, words_text

UNKNOWN_SPEAKER = "unknown"
"""The speaker of what is said where no speaker was found."""


def with_speakers(transcript: Transcript, turns: Iterable[SpeakerTurn]) -> Transcript:
    """The transcript with a speaker for each segment, and segments that end where speakers change.

    A part of a segment keeps what was measured of the whole; the tokens stay with whole segments only.
    """
    voices = _Voices(turns)
    parts = [part for segment in transcript.segments for part in _parts(segment, voices)]
    return replace(transcript, segments=tuple(replace(part, index=index) for index, part in enumerate(parts)))


def _parts(segment: Segment, voices: _Voices) -> Iterator[Segment]:
    if not segment.words:
        yield replace(segment, speaker=voices.speaker(segment.start_seconds, segment.end_seconds, None))
        return
    spoken: list[tuple[str, Word]] = []
    speaker: str | None = None
    for word in segment.words:
        speaker = voices.speaker(word.start_seconds, word.end_seconds, speaker)
        spoken.append((speaker, word))
    groups = [(who, [word for _, word in group]) for who, group in groupby(spoken, key=lambda one: one[0])]
    if len(groups) == 1:
        yield replace(segment, speaker=groups[0][0])
        return
    for number, (who, words) in enumerate(groups):
        is_first, is_last = number == 0, number == len(groups) - 1
        yield replace(
            segment,
            start_seconds=segment.start_seconds if is_first else words[0].start_seconds,
            end_seconds=segment.end_seconds if is_last else words[-1].end_seconds,
            text=words_text(words),
            words=tuple(words),
            speaker=who,
            tokens=(),
            token_logprobs=(),
            notice=segment.notice if is_first else None,
        )


class _Voices:
    """Speakers' turns, searchable by time."""

    def __init__(self, turns: Iterable[SpeakerTurn]) -> None:
        self._turns: Sequence[SpeakerTurn] = sorted(turns, key=lambda turn: turn.start_seconds)
        self._starts = [turn.start_seconds for turn in self._turns]
        # The turn with the latest end of all turns up to each: none of them reaches further.
        self._reach: list[SpeakerTurn] = []
        for turn in self._turns:
            before = self._reach[-1] if self._reach else turn
            self._reach.append(turn if turn.end_seconds >= before.end_seconds else before)

    def speaker(self, start: float, end: float, before: str | None) -> str:
        """Speaker of most of this time, or else the nearest; where two are even, the one before goes on."""
        last = bisect_left(self._starts, max(end, start + 1e-9))
        shares: dict[str, float] = {}
        nearest: tuple[float, str] | None = None
        for index in range(last - 1, -1, -1):
            reach = self._reach[index]
            if reach.end_seconds <= start:
                nearest = (start - reach.end_seconds, reach.speaker)
                break
            turn = self._turns[index]
            share = min(end, turn.end_seconds) - max(start, turn.start_seconds)
            if share > 0 or turn.start_seconds <= start < turn.end_seconds:
                shares[turn.speaker] = shares.get(turn.speaker, 0.0) + max(share, 1e-9)
        if shares:
            most = max(shares.values())
            leaders = [who for who, share in shares.items() if share >= most - 1e-6]
            return before if before in leaders else min(leaders)
        if last < len(self._turns):
            ahead = self._turns[last]
            distance = ahead.start_seconds - end
            if nearest is None or distance < nearest[0]:
                nearest = (distance, ahead.speaker)
        return nearest[1] if nearest is not None else UNKNOWN_SPEAKER
