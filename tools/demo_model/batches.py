"""Training batches, put together on the device: speech from a pool, prompts, noise, gain, and clips without speech.

All samples and token ids of the corpus lie in two flat tensors on the device; a batch is a handful of gathers, so the
CPU only draws row numbers. Clips are grouped by length. No clip is ever scaled by its own peak: gain is random.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.demo_model import network
from tools.demo_model.speech import LANGUAGES, SAMPLE_RATE
from tools.demo_model.vocabulary import Prompt

BUCKET_SECONDS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
LARGEST_BATCH = 512
NEGATIVE_SHARE = 0.05
FORCED_SHARE = 0.3
CONTEXT_SHARE = 0.6
# Longest context of a batch in tokens, and how often: one long context makes every row of the batch longer.
CONTEXT_BUDGETS = ((0, 0.3), (20, 0.3), (48, 0.3), (128, 0.1))
GAIN_RANGE_DB = (-36.0, 5.0)
NOISE_SHARE, NOISE_RANGE_DB = 0.55, (5.0, 45.0)
NEGATIVE_LEVEL_RANGE_DB = (-92.0, -3.0)
DIGITAL_SILENCE_SHARE = 0.12
EQUALIZER_SHARE = 0.5


@dataclass
class _Columns:
    """One row per clip, on the CPU. The starts are positions in the two flat tensors."""

    sample_start: NDArray[np.int64]
    sample_count: NDArray[np.int64]
    text_start: NDArray[np.int64]
    text_count: NDArray[np.int64]
    context_start: NDArray[np.int64]
    context_count: NDArray[np.int64]
    language: NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """The data of a step. `labels` are -100 where nothing is to be learned; the counts on the CPU are for CTC."""

    waveforms: Tensor  # (batch, samples) float32
    sample_counts: Tensor  # (batch,)
    equalizer: Tensor  # (batch, 201) gains on the power spectrum
    token_ids: Tensor  # (batch, length)
    audio_starts: Tensor  # (batch,)
    target_starts: Tensor  # (batch,) where the first label is
    labels: Tensor  # (batch, targets)
    text_ids: Tensor  # (batch, longest text), for CTC
    text_counts: Tensor  # (batch,) on the CPU
    audio_token_counts: Tensor  # (batch,) on the CPU

    @property
    def seconds(self) -> float:
        return float(self.waveforms.shape[0] * self.waveforms.shape[1] / SAMPLE_RATE)


class SampleStore:
    """All samples of the corpus on the device, and the conditions under which a batch hears them."""

    def __init__(self, device: torch.device, hours: float) -> None:
        self._device = device
        self._samples = torch.zeros(int(hours * 3600 * SAMPLE_RATE), dtype=torch.int16, device=device)
        self._end = 0
        self._noise = noise_tracks(device)

    @property
    def hours(self) -> float:
        return self._end / SAMPLE_RATE / 3600

    def has_room(self, sample_count: int) -> bool:
        return self._end + sample_count <= len(self._samples)

    def add(self, samples: NDArray[np.int16]) -> int:
        """Take samples in; returns where they start."""
        start = self._end
        self._end += len(samples)
        self._samples[start : self._end] = torch.from_numpy(samples).to(self._device)
        return start

    def waveforms(
        self,
        starts: Tensor,
        counts: Tensor,
        negative: Tensor,
        total: int,
        *,
        hardness: float = 1.0,
        delays: Tensor | None = None,
    ) -> Tensor:
        """(batch, total) float32: clips under random gain and noise, noise alone where `negative`.

        starts, counts: (batch,) samples in the store; hardness scales how many clips get noise
        delays: (batch,) samples of silence before the clip; `counts` includes them
        """
        batch, device = len(starts), self._device

        def uniform(low: float, high: float) -> Tensor:
            return torch.rand(batch, 1, device=device) * (high - low) + low

        def chance(share: float) -> Tensor:
            return torch.rand(batch, 1, device=device) < share

        place = torch.arange(total, device=device)[None, :]
        inside = place < counts[:, None]
        heard = inside & ~negative[:, None]
        source = starts[:, None] + place
        if delays is not None:
            source = source - delays[:, None]
            heard = heard & (place >= delays[:, None])
        x = self._samples[source.clamp(0, len(self._samples) - 1)].float() / 32768.0
        x = x.masked_fill(~heard, 0.0)
        x = x * 10 ** (uniform(*GAIN_RANGE_DB) / 20)
        # Noise is set against the level of what is spoken, so pauses do not count.
        spoken = (x != 0).sum(1, keepdim=True).clamp(min=1)
        level = (x.square().sum(1, keepdim=True) / spoken).sqrt()
        noise_level = level * 10 ** (-uniform(*NOISE_RANGE_DB) / 20) * chance(NOISE_SHARE * hardness)
        alone = 10 ** (uniform(*NEGATIVE_LEVEL_RANGE_DB) / 20) * ~chance(DIGITAL_SILENCE_SHARE)
        noise_level = torch.where(negative[:, None], alone, noise_level)
        track_count, track_length = self._noise.shape
        track = torch.randint(track_count, (batch, 1), device=device)
        offset = torch.randint(track_length, (batch, 1), device=device)
        noise = self._noise.view(-1)[track * track_length + (offset + place) % track_length]
        x = (x + noise * noise_level).clamp(-1.0, 1.0)
        rounded = (x * 32768.0).round() / 32768.0
        return torch.where(chance(0.7), rounded, x).masked_fill(~inside, 0.0)


class SpeechPool:
    """The corpus on the device; shards are added while training goes on."""

    def __init__(self, prompt: Prompt, device: torch.device, hours: float) -> None:
        self._device = device
        self._sound = SampleStore(device, hours)
        self._tokens = torch.zeros(int(hours * 3600 * 40) + 65536, dtype=torch.int32, device=device)
        self._token_end = 0
        self._columns: list[_Columns] = []
        self._all: _Columns | None = None
        self._buckets: dict[int, NDArray[np.int64]] = {}
        self._head = self._store(prompt.head)
        self._middle = self._store(prompt.middle)
        self._tail = self._store(prompt.tail)
        self._end = self._store((prompt.end,))
        self._announcements = [self._store(prompt.announcements[name]) for name in (*LANGUAGES, "None")]

    def _store(self, ids: Sequence[int]) -> tuple[int, int]:
        start = self._token_end
        self._token_end += len(ids)
        self._tokens[start : self._token_end] = torch.tensor(ids, dtype=torch.int32)
        return start, len(ids)

    @property
    def hours(self) -> float:
        return self._sound.hours

    def add(
        self,
        samples: NDArray[np.int16],
        lengths: Sequence[int],
        texts: Sequence[Sequence[int]],
        contexts: Sequence[Sequence[int]],
        language: str,
    ) -> bool:
        """Take one shard in; False when the pool is full. One context of token ids per clip, for any clip to use."""
        if not self._sound.has_room(len(samples)):
            return False
        counts = np.asarray(lengths, dtype=np.int64)
        flat = [np.asarray(ids, dtype=np.int32) for ids in (*texts, *contexts)]
        token_counts = np.asarray([len(ids) for ids in flat], dtype=np.int64)
        token_starts = self._token_end + np.cumsum(token_counts) - token_counts
        total = int(token_counts.sum())
        if self._token_end + total > len(self._tokens):
            return False
        self._tokens[self._token_end : self._token_end + total] = torch.from_numpy(np.concatenate(flat)).to(
            self._device
        )
        sample_start = self._sound.add(samples)
        half = len(lengths)
        self._columns.append(
            _Columns(
                sample_start + np.cumsum(counts) - counts,
                counts,
                token_starts[:half],
                token_counts[:half],
                token_starts[half:],
                token_counts[half:],
                np.full(half, LANGUAGES.index(language), dtype=np.int64),
            )
        )
        self._token_end += total
        self._all = None
        return True

    def _table(self) -> _Columns:
        if self._all is None:
            self._all = _Columns(
                *(
                    np.concatenate([getattr(part, name) for part in self._columns])
                    for name in _Columns.__annotations__
                )
            )
            seconds = self._all.sample_count / SAMPLE_RATE
            place = np.searchsorted(np.asarray(BUCKET_SECONDS, dtype=float), seconds)
            self._buckets = {
                edge: rows
                for i, edge in enumerate(BUCKET_SECONDS)
                if len(rows := np.flatnonzero(place == i)) >= 8
            }
        return self._all

    def draw(
        self,
        rng: np.random.Generator,
        batch_seconds: float,
        longest_seconds: float,
        hardness: float = 1.0,
    ) -> Batch:
        """A batch of one bucket, chosen by how much speech it holds. hardness scales how many clips are disturbed."""
        table = self._table()
        edges = [edge for edge in self._buckets if edge <= longest_seconds]
        weights = np.asarray(
            [len(self._buckets[edge]) / self._batch_size(edge, batch_seconds) for edge in edges]
        )
        edge = edges[int(rng.choice(len(edges), p=weights / weights.sum()))]
        size = self._batch_size(edge, batch_seconds)
        rows = rng.choice(self._buckets[edge], size=size)
        negative = rng.random(size) < NEGATIVE_SHARE
        shortest = 0.25 if edge == 1 else BUCKET_SECONDS[BUCKET_SECONDS.index(edge) - 1]
        silent_counts = (rng.uniform(shortest, edge, size) * SAMPLE_RATE).astype(np.int64)
        sample_counts = np.where(negative, silent_counts, table.sample_count[rows])
        text_counts = np.where(negative, 0, table.text_count[rows])
        language = table.language[rows]
        budget = int(rng.choice([b for b, _ in CONTEXT_BUDGETS], p=[p for _, p in CONTEXT_BUDGETS]))
        context_rows = np.where(rng.random(size) < 0.5, rows, rng.choice(self._buckets[edge], size=size))
        context_counts = table.context_count[context_rows]
        has_context = (rng.random(size) < CONTEXT_SHARE) & (context_counts <= budget)
        context_counts = np.where(has_context, context_counts, 0)
        forced = rng.random(size) < FORCED_SHARE
        spoken = np.where(negative & ~forced, len(LANGUAGES), language)
        announcements = np.asarray(self._announcements, dtype=np.int64)
        frames = sample_counts // network.HOP
        audio_counts = 13 * (frames // 100) + (frames % 100 + 7) // 8
        starts = np.stack(
            [
                np.full(size, self._head[0]),
                table.context_start[context_rows],
                np.full(size, self._middle[0]),
                np.zeros(size, dtype=np.int64),  # under the audio any id will do
                np.full(size, self._tail[0]),
                announcements[spoken, 0],
                table.text_start[rows],
                np.full(size, self._end[0]),
            ]
        )
        counts = np.stack(
            [
                np.full(size, self._head[1]),
                context_counts,
                np.full(size, self._middle[1]),
                audio_counts,
                np.full(size, self._tail[1]),
                announcements[spoken, 1],
                text_counts,
                np.full(size, self._end[1]),
            ]
        )
        ends = counts.cumsum(axis=0)
        facts = np.concatenate(
            [
                starts - (ends - counts),
                ends,
                np.stack([table.sample_start[rows], sample_counts, negative, forced]),
            ]
        )
        on_device = torch.from_numpy(facts)
        if self._device.type == "cuda":
            on_device = on_device.pin_memory()
        return self._assemble(
            on_device.to(self._device, non_blocking=True),
            round(edge * SAMPLE_RATE),
            int(ends[-1].max()),
            int((ends[-1] - ends[4]).max()),
            torch.from_numpy(text_counts),
            torch.from_numpy(audio_counts),
            hardness,
        )

    @staticmethod
    def _batch_size(edge: int, batch_seconds: float) -> int:
        return max(2, min(LARGEST_BATCH, int(batch_seconds / edge)))

    def _assemble(
        self,
        facts: Tensor,
        sample_total: int,
        length: int,
        targets: int,
        text_counts: Tensor,
        audio_counts: Tensor,
        hardness: float,
    ) -> Batch:
        offsets, ends, rest = facts[:8].T, facts[8:16].T, facts[16:]
        sample_starts, sample_counts, negative, forced = rest[0], rest[1], rest[2].bool(), rest[3].bool()
        place = torch.arange(length, device=self._device)
        piece = (place[None, :, None] >= ends[:, None, :]).sum(-1).clamp(max=7)
        source = (offsets.gather(1, piece) + place[None, :]).clamp(0, len(self._tokens) - 1)
        token_ids = self._tokens[source].long()
        target_place = ends[:, 4, None] + torch.arange(targets, device=self._device)[None, :]
        labels = token_ids.gather(1, target_place.clamp(max=length - 1))
        first = torch.where(forced, ends[:, 5], ends[:, 4])
        wanted = (target_place >= first[:, None]) & (target_place < ends[:, 7, None])
        text_place = torch.arange(max(1, int(text_counts.max())), device=self._device)[None, :]
        text_source = (offsets[:, 6] + ends[:, 5])[:, None] + text_place
        text_ids = self._tokens[text_source.clamp(max=len(self._tokens) - 1)].long()
        inside = text_place < (ends[:, 6] - ends[:, 5])[:, None]
        return Batch(
            waveforms=self._sound.waveforms(
                sample_starts, sample_counts, negative, sample_total, hardness=hardness
            ),
            sample_counts=sample_counts,
            equalizer=random_equalizer(len(sample_counts), self._device, EQUALIZER_SHARE * hardness),
            token_ids=token_ids,
            audio_starts=ends[:, 2],
            target_starts=ends[:, 4],
            labels=labels.masked_fill(~wanted, -100),
            text_ids=text_ids.masked_fill(~inside, 0),
            text_counts=text_counts,
            audio_token_counts=audio_counts,
        )


def random_equalizer(batch: int, device: torch.device, share: float = EQUALIZER_SHARE) -> Tensor:
    """(batch, 201) smooth gains on the power spectrum, mostly within 8 dB; all but `share` of the rows are flat."""
    place = torch.linspace(0, 1, network.FFT_SIZE // 2 + 1, device=device).sqrt()[None, None, :]
    order = torch.arange(1, 5, device=device)[None, :, None]
    phase = torch.rand(batch, 4, 1, device=device) * 2 * math.pi
    height = torch.randn(batch, 4, 1, device=device) * 3.0 / order
    height = height * (torch.rand(batch, 1, 1, device=device) < share)
    return 10 ** ((height * torch.cos(math.pi * order * place + phase)).sum(1) / 10)


def noise_tracks(device: torch.device, seconds: float = 24.0, seed: int = 11) -> Tensor:
    """(tracks, samples) of RMS 1: white, pink and brown noise, hum of 50 and 60 Hz, tones, clicks, an offset."""
    generator = torch.Generator().manual_seed(seed)
    rng = random.Random(seed)
    count = round(seconds * SAMPLE_RATE)
    time = torch.arange(count) / SAMPLE_RATE
    frequency = torch.fft.rfftfreq(count, 1 / SAMPLE_RATE).clamp(min=20.0)

    def colored(exponent: float) -> Tensor:
        spectrum = torch.fft.rfft(torch.randn(count, generator=generator)) * frequency**-exponent
        return torch.fft.irfft(spectrum, n=count)

    def hum() -> Tensor:
        base = rng.choice((50.0, 60.0)) * rng.uniform(0.995, 1.005)
        parts = [
            rng.random()
            / harmonic ** rng.uniform(0.3, 2.0)
            * torch.sin(2 * math.pi * base * harmonic * time + rng.random() * 6)
            for harmonic in range(1, rng.randint(2, 14))
        ]
        return torch.stack(parts).sum(0) + 1e-3

    def clicks() -> Tensor:
        x = torch.zeros(count)
        for _ in range(rng.randint(10, 120)):
            at, width = rng.randrange(count - 400), rng.randint(1, 200)
            burst = torch.randn(width, generator=generator) * torch.exp(
                -torch.arange(width) / (width / 4 + 1)
            )
            x[at : at + width] += rng.uniform(0.2, 1.0) * burst
        return x

    def unit(x: Tensor) -> Tensor:
        return x / x.square().mean().sqrt()

    tracks = [unit(colored(exponent)) for exponent in (0, 0, 0, 0, 0.3, 0.5, 0.5, 0.5, 0.5, 0.8, 1, 1, 1, 1)]
    hums = [unit(hum()) for _ in range(14)]
    tracks += hums
    tracks += [
        unit(one + rng.uniform(0.02, 0.6) * unit(colored(rng.choice((0, 0.5, 1))))) for one in hums[:8]
    ]
    tracks += [unit(torch.sin(2 * math.pi * rng.uniform(60, 4000) * time)) for _ in range(5)]
    tracks += [unit(clicks()) for _ in range(6)]
    tracks += [unit(unit(clicks()) * 0.5 + unit(colored(0.5))) for _ in range(2)]
    tracks.append(torch.ones(count))
    return torch.stack(tracks).to(device)


def mask_mel(mel: Tensor, frame_counts: Tensor, hardness: float = 1.0, hide_stretches: bool = True) -> Tensor:
    """Hide random bands, and stretches of time, of (batch, 128, frames) behind the clip's mean.

    Fewer at a lower hardness.
    """
    batch, bins, frames = mel.shape
    device = mel.device

    def stripes(size: int, widest: int, count: int) -> Tensor:
        width = torch.rand(batch, count, 1, device=device) * widest
        start = torch.rand(batch, count, 1, device=device) * (size - width)
        place = torch.arange(size, device=device)[None, None, :]
        kept = torch.rand(batch, 1, 1, device=device) < 0.8 * hardness
        return ((place >= start) & (place < start + width) & kept).any(1)

    hidden = stripes(bins, 20, 2)[:, :, None]
    if hide_stretches:
        hidden = hidden | stripes(frames, 18 if frames > 150 else 8, 1 + frames // 250)[:, None, :]
    mean = mel.sum(dim=(1, 2)) / (bins * frame_counts.clamp(min=1))
    inside = torch.arange(frames, device=device)[None, :] < frame_counts[:, None]
    return torch.where(hidden & inside[:, None, :], mean[:, None, None], mel)
