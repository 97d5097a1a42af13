"""Clips as the encoder hears them, kept so that the decoder alone can be trained on them: no GPU, and an hour.

The encoder is most of the work, and knows what is said; when it is said is the decoder's to learn. So every clip is
heard once or a few times, under delays, noise and filters of its own each time, and what the encoder makes of it is
drawn from ever after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tools.demo_model import network
from tools.demo_model.alignment.batches import TimedPool
from tools.demo_model.batches import mask_mel

NEIGHBORHOOD = 256  # clips of about one length, among which those of a batch are drawn
HEARD_HARDNESS = 0.8  # share of the usual disturbances
FEWEST = 2


@dataclass(frozen=True)
class HeardBatch:
    """Rows padded on the right; `seconds_wanted` is NaN where nothing is to be learned."""

    audio: Tensor  # (batch, audio tokens, decoder width)
    audio_counts: Tensor  # (batch,)
    token_ids: Tensor  # (batch, length)
    places: Tensor  # (batch, timestamps) positions in token_ids
    seconds_wanted: Tensor  # (batch, timestamps)

    @property
    def seconds(self) -> float:
        """Seconds of audio, without padding: 13 tokens a second."""
        return float(self.audio_counts.sum()) / network.CHUNK_TOKENS


@dataclass(frozen=True)
class _HeardClip:
    audio: Tensor
    token_ids: Tensor
    places: Tensor
    seconds_wanted: Tensor


class HeardPool:
    """The encoder's output for every clip of a pool."""

    def __init__(self, clips: Sequence[_HeardClip], pad: int) -> None:
        ordered = sorted(clips, key=lambda clip: len(clip.token_ids))
        self._groups = [ordered[i : i + NEIGHBORHOOD] for i in range(0, len(ordered), NEIGHBORHOOD)]
        # By the squares of their lengths: the clock is read worst late in long clips.
        weights = np.asarray([sum(len(clip.audio) ** 2 for clip in group) for group in self._groups], float)
        self._shares = weights / weights.sum()
        self._pad = pad
        self.hours = sum(len(clip.audio) for clip in clips) / network.CHUNK_TOKENS / 3600

    @staticmethod
    def hear(
        pool: TimedPool,
        parameters: network.Parameters,
        size: network.Size,
        filterbank: Tensor,
        rng: np.random.Generator,
        hearings: int,
        pad: int,
    ) -> HeardPool:
        """Hear every clip in `pool` so often. pad: the id that stands in token_ids past a row's end"""
        clips: list[_HeardClip] = []
        with torch.no_grad():
            for _ in range(hearings):
                for batch in pool.everything(rng, HEARD_HARDNESS):
                    mel, frames = network.log_mel(
                        batch.waveforms, batch.sample_counts, filterbank, batch.equalizer
                    )
                    mel = mask_mel(mel, frames, HEARD_HARDNESS, hide_stretches=False)
                    audio, counts = network.encode(parameters, size, mel, frames)
                    for row, count in enumerate(counts.tolist()):
                        # No timestamp is at position 0, so 0 is padding; the last one is a row's last token.
                        stamps = int((batch.places[row] > 0).sum())
                        length = int(batch.places[row].max()) + 1
                        clips.append(
                            _HeardClip(
                                audio[row, :count].clone(),
                                batch.token_ids[row, :length].clone(),
                                batch.places[row, :stamps].clone(),
                                batch.seconds_wanted[row, :stamps].clone(),
                            )
                        )
        return HeardPool(clips, pad)

    def draw(self, rng: np.random.Generator, batch_seconds: float) -> HeardBatch:
        """A batch of clips of about one length, long ones more often than there is speech of them."""
        group = self._groups[int(rng.choice(len(self._groups), p=self._shares))]
        longest = len(group[-1].audio) / network.CHUNK_TOKENS
        count = max(FEWEST, int(batch_seconds / longest))
        return self._batch([group[int(number)] for number in rng.integers(len(group), size=count)])

    def everything(self) -> HeardBatch:
        """All clips in one batch."""
        return self._batch([clip for group in self._groups for clip in group])

    def _batch(self, clips: Sequence[_HeardClip]) -> HeardBatch:
        return HeardBatch(
            audio=pad_sequence([clip.audio for clip in clips], batch_first=True),
            audio_counts=torch.tensor([len(clip.audio) for clip in clips]).to(clips[0].audio.device),
            token_ids=pad_sequence([clip.token_ids for clip in clips], True, self._pad),
            places=pad_sequence([clip.places for clip in clips], batch_first=True),
            seconds_wanted=pad_sequence([clip.seconds_wanted for clip in clips], True, math.nan),
        )
