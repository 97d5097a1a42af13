"""Training batches of the aligner: speech from a pool, its words with two timestamps each, and the times wanted there.

The words are not always those that were said: a recognizer's transcript has wrong, missing and extra words, and the
times of the others must not suffer. Clips are delayed by a random silence, so that a word meets every part of a class.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.demo_model import network
from tools.demo_model.batches import EQUALIZER_SHARE, LARGEST_BATCH, SampleStore, random_equalizer
from tools.demo_model.feeding import Prepare
from tools.demo_model.speech import SAMPLE_RATE

BUCKET_SECONDS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 33)
SEGMENT_SECONDS = 0.08  # timestamp_segment_time of the published aligner
CLASS_COUNT = 448  # 35.8 s; the published aligner has 5000
DELAYED_SHARE, LONGEST_DELAY_SECONDS = 0.7, 1.5
WRONG_TEXT_SHARE, LOWER_CASE_SHARE = 0.25, 0.15
REPLACED, DROPPED, ADDED = 0.08, 0.04, 0.03
EVERYTHING_BATCH_SECONDS = 240.0


@dataclass(frozen=True)
class AlignerPrompt:
    """`<|audio_start|>` audio `<|audio_end|>` word `<timestamp><timestamp>` word ..."""

    audio_start: int
    audio_pad: int
    audio_end: int
    timestamp: int

    @staticmethod
    def of(tokenizer: tokenizers.Tokenizer) -> AlignerPrompt:
        """The ids as `tokenizer` has them."""

        def one(token: str) -> int:
            number = tokenizer.token_to_id(token)
            if number is None:
                raise KeyError(f"the tokenizer has no {token}")
            return int(number)

        names = ("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>", "<timestamp>")
        return AlignerPrompt(*(one(name) for name in names))


@dataclass(frozen=True)
class TimedTokens:
    """The words of one clip as ids, with the places of their timestamps among them and the times they stand for."""

    ids: list[int]
    places: list[int]
    seconds: list[float]  # NaN where nothing is to be learned


def timed_tokens(words: Sequence[tuple[Sequence[int], float, float]], prompt: AlignerPrompt) -> TimedTokens:
    """words: (token ids, start, end) each."""
    made = TimedTokens([], [], [])
    for ids, start, end in words:
        made.ids.extend(ids)
        made.places.extend((len(made.ids), len(made.ids) + 1))
        made.ids.extend((prompt.timestamp, prompt.timestamp))
        made.seconds.extend((start, end))
    return made


def prepare_with(tokenizer: tokenizers.Tokenizer, prompt: AlignerPrompt, seed: int) -> Prepare:
    """Tokenizes the words of a shard, some clips with the faults of a transcript."""
    rng = random.Random(seed)

    def prepare(samples: NDArray[np.int16], content: dict[str, Any]) -> tuple[Any, ...]:
        everything = sorted({word for clip in content["words"] for word, _, _ in clip})
        spelled = {word: e.ids for word, e in zip(everything, tokenizer.encode_batch(
            everything, add_special_tokens=False), strict=True)}  # fmt: skip
        lowered = [word.lower() for word in everything]
        lower = {word: e.ids for word, e in zip(everything, tokenizer.encode_batch(
            lowered, add_special_tokens=False), strict=True)}  # fmt: skip
        made = []
        for clip in content["words"]:
            words = [(w, math.nan if a is None else a, math.nan if b is None else b) for w, a, b in clip]
            if rng.random() < WRONG_TEXT_SHARE:
                words = with_faults(words, everything, rng)
            ids = lower if rng.random() < LOWER_CASE_SHARE else spelled
            made.append(timed_tokens([(ids[w], a, b) for w, a, b in words], prompt))
        return samples, content["lengths"], made

    return prepare


def with_faults(
    words: Sequence[tuple[str, float, float]], others: Sequence[str], rng: random.Random
) -> list[tuple[str, float, float]]:
    """Some words replaced, left out or added, as in a transcript; at least one is left."""
    made: list[tuple[str, float, float]] = []
    for word, start, end in words:
        roll = rng.random()
        if roll < REPLACED:
            made.append((rng.choice(others), start, end))
        elif roll < REPLACED + DROPPED:
            continue
        else:
            made.append((word, start, end))
        if rng.random() < ADDED:
            made.append((rng.choice(others), math.nan, math.nan))
    return made or list(words)


@dataclass(frozen=True)
class TimedBatch:
    """The data of a step; `seconds_wanted` is NaN where nothing is to be learned, and past each row's words."""

    waveforms: Tensor  # (batch, samples) float32
    sample_counts: Tensor  # (batch,)
    equalizer: Tensor  # (batch, 201)
    token_ids: Tensor  # (batch, length)
    places: Tensor  # (batch, timestamps) positions in token_ids
    seconds_wanted: Tensor  # (batch, timestamps)

    @property
    def seconds(self) -> float:
        return float(self.waveforms.shape[0] * self.waveforms.shape[1] / SAMPLE_RATE)


class TimedPool:
    """The corpus on the device; shards are added while training goes on."""

    def __init__(self, prompt: AlignerPrompt, device: torch.device, hours: float) -> None:
        self._prompt, self._device = prompt, device
        self._sound = SampleStore(device, hours)
        room = int(hours * 3600 * 30) + 65536
        self._tokens = torch.zeros(room, dtype=torch.int32, device=device)
        self._places = torch.zeros(room, dtype=torch.int32, device=device)
        self._seconds = torch.zeros(room, dtype=torch.float32, device=device)
        self._token_end = self._stamp_end = 0
        self._parts: list[NDArray[np.int64]] = []
        self._table: NDArray[np.int64] | None = None
        self._buckets: dict[int, NDArray[np.int64]] = {}

    @property
    def hours(self) -> float:
        return self._sound.hours

    def add(self, samples: NDArray[np.int16], lengths: Sequence[int], texts: Sequence[TimedTokens]) -> bool:
        """Take one shard in; False when the pool is full."""
        ids = np.concatenate([np.asarray(text.ids, dtype=np.int32) for text in texts])
        places = np.concatenate([np.asarray(text.places, dtype=np.int32) for text in texts])
        seconds = np.concatenate([np.asarray(text.seconds, dtype=np.float32) for text in texts])
        room = len(self._tokens)
        if not self._sound.has_room(len(samples)) or max(self._token_end, self._stamp_end) + len(ids) > room:
            return False
        sample_counts = np.asarray(lengths, dtype=np.int64)
        token_counts = np.asarray([len(text.ids) for text in texts], dtype=np.int64)
        stamp_counts = np.asarray([len(text.places) for text in texts], dtype=np.int64)
        sample_start = self._sound.add(samples)
        for store, start, new in (
            (self._tokens, self._token_end, ids),
            (self._places, self._stamp_end, places),
            (self._seconds, self._stamp_end, seconds),
        ):
            store[start : start + len(new)] = torch.from_numpy(new).to(self._device)
        columns = []
        for begin, counts in (
            (sample_start, sample_counts),
            (self._token_end, token_counts),
            (self._stamp_end, stamp_counts),
        ):
            columns += [begin + np.cumsum(counts) - counts, counts]
        self._parts.append(np.stack(columns, axis=1))
        self._token_end += len(ids)
        self._stamp_end += len(places)
        self._table = None
        return True

    def _rows(self) -> NDArray[np.int64]:
        """(clips, 6): start and count of samples, tokens and timestamps."""
        if self._table is None:
            self._table = np.concatenate(self._parts)
            place = np.searchsorted(np.asarray(BUCKET_SECONDS, dtype=float), self._table[:, 1] / SAMPLE_RATE)
            self._buckets = {
                edge: rows
                for i, edge in enumerate(BUCKET_SECONDS)
                if len(rows := np.flatnonzero(place == i)) >= 8
            }
        return self._table

    def draw(
        self, rng: np.random.Generator, batch_seconds: float, longest_seconds: float, hardness: float = 1.0
    ) -> TimedBatch:
        """A batch of one bucket, chosen by how much speech it holds. hardness scales how many clips are disturbed."""
        table = self._rows()
        edges = [edge for edge in self._buckets if edge <= longest_seconds]
        sizes = [max(2, min(LARGEST_BATCH, int(batch_seconds / edge))) for edge in edges]
        weights = np.asarray([len(self._buckets[e]) / size for e, size in zip(edges, sizes, strict=True)])
        chosen = int(rng.choice(len(edges), p=weights / weights.sum()))
        edge, size = edges[chosen], sizes[chosen]
        return self._delayed(table[rng.choice(self._buckets[edge], size=size)], edge, rng, hardness)

    def everything(self, rng: np.random.Generator, hardness: float = 1.0) -> Iterator[TimedBatch]:
        """Every clip once (but for those of a length that few have), in batches of one bucket."""
        table = self._rows()
        for edge, rows in self._buckets.items():
            count = max(1, round(EVERYTHING_BATCH_SECONDS / edge))
            for start in range(0, len(rows), count):
                yield self._delayed(table[rows[start : start + count]], edge, rng, hardness)

    def _delayed(
        self, rows: NDArray[np.int64], edge: int, rng: np.random.Generator, hardness: float
    ) -> TimedBatch:
        size, total = len(rows), edge * SAMPLE_RATE
        longest = np.minimum(total - rows[:, 1], int(LONGEST_DELAY_SECONDS * SAMPLE_RATE))
        delays = (rng.random(size) * (longest + 1)).astype(np.int64)
        delays = np.where(rng.random(size) < DELAYED_SHARE, delays, 0)
        frames = (rows[:, 1] + delays) // network.HOP
        audio_counts = 13 * (frames // 100) + (frames % 100 + 7) // 8
        facts = np.concatenate([rows.T, delays[None], audio_counts[None]])
        on_device = torch.from_numpy(facts)
        if self._device.type == "cuda":
            on_device = on_device.pin_memory()
        return self._assemble(
            on_device.to(self._device, non_blocking=True),
            total,
            int((2 + audio_counts + rows[:, 3]).max()),
            int(rows[:, 5].max()),
            hardness,
        )

    def _assemble(
        self, facts: Tensor, sample_total: int, length: int, stamps: int, hardness: float
    ) -> TimedBatch:
        sample_start, sample_count, token_start, token_count, stamp_start, stamp_count, delay, audio = facts
        batch = len(sample_start)
        place = torch.arange(length, device=self._device)[None, :]
        first_word = (2 + audio)[:, None]
        source = token_start[:, None] + (place - first_word).clamp(min=0)
        ids = self._tokens[source.clamp(max=len(self._tokens) - 1)].long()
        ids = torch.where(place < first_word - 1, self._prompt.audio_pad, ids)
        ids = torch.where(place == first_word - 1, self._prompt.audio_end, ids)
        ids = torch.where(place >= first_word + token_count[:, None], self._prompt.audio_pad, ids)
        ids = torch.where(place == 0, self._prompt.audio_start, ids)
        number = torch.arange(stamps, device=self._device)[None, :]
        stamp = (stamp_start[:, None] + number).clamp(max=len(self._places) - 1)
        inside = number < stamp_count[:, None]
        seconds = self._seconds[stamp] + delay[:, None] / SAMPLE_RATE
        return TimedBatch(
            waveforms=self._sound.waveforms(
                sample_start,
                sample_count + delay,
                torch.zeros(batch, dtype=torch.bool, device=self._device),
                sample_total,
                hardness=hardness,
                delays=delay,
            ),
            sample_counts=sample_count + delay,
            equalizer=random_equalizer(batch, self._device, EQUALIZER_SHARE * hardness),
            token_ids=ids,
            places=(self._places[stamp].long() + first_word).masked_fill(~inside, 0),
            seconds_wanted=seconds.masked_fill(~inside, math.nan),
        )
