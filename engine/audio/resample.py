"""Sample-rate conversion to 16 kHz mono, in blocks, by libswresample.

The wheels of PyAV carry no soxr (the official package's resampler), so libswresample's own sinc filter is lengthened
until it is better than soxr's "HQ": its defaults lose 0.4 dB at 7 kHz and let 8.2 kHz through at -15 dB. Measured from
44.1, 48 and 22.05 kHz with sines, with the settings below: within 0.01 dB up to 7.3 kHz, distortion and noise under
-120 dB, everything from 8.2 kHz on (which would fold back into the band) under -110 dB.
`tests/unit/test_resample.py` holds these figures.
"""

from __future__ import annotations

import math

import av
import numpy as np
import numpy.typing as npt

from scribewire.engine.protocol.config import SAMPLE_RATE_HZ

Samples = npt.NDArray[np.float32]

_FILTER = {"filter_size": "192", "cutoff": "0.965", "filter_type": "kaiser", "kaiser_beta": "12"}


class Resampler:
    """Mono float32 at one rate to 16 kHz. The output has no delay: sample n stays at time n / rate."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._is_silent = False
        self._resampler = av.AudioResampler(
            format="fltp", layout="mono", rate=SAMPLE_RATE_HZ, options=dict(_FILTER)
        )

    def push(self, samples: Samples) -> Samples:
        """(n,) samples in, those out that are certain by now; a second or more at a time is quick."""
        if self.sample_rate_hz == SAMPLE_RATE_HZ or len(samples) == 0:
            return samples
        # After a second of zeros the filter holds nothing else, and further ones in whole periods change nothing in it.
        was_silent, self._is_silent = (
            self._is_silent,
            len(samples) >= self.sample_rate_hz and not samples.any(),
        )
        if was_silent and self._is_silent:
            period = self.sample_rate_hz // math.gcd(self.sample_rate_hz, SAMPLE_RATE_HZ)
            skipped = len(samples) // period * period
            silence = np.zeros(skipped * SAMPLE_RATE_HZ // self.sample_rate_hz, np.float32)
            return np.concatenate([silence, self._pushed(samples[skipped:])])
        return self._pushed(samples)

    def _pushed(self, samples: Samples) -> Samples:
        if len(samples) == 0:
            return samples
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="fltp", layout="mono")
        frame.sample_rate = self.sample_rate_hz
        return _joined(self._resampler.resample(frame))

    def finish(self) -> Samples:
        """The rest of the output."""
        if self.sample_rate_hz == SAMPLE_RATE_HZ:
            return np.empty(0, dtype=np.float32)
        return _joined(self._resampler.resample(None))


def _joined(frames: list[av.AudioFrame]) -> Samples:
    parts = [frame.to_ndarray()[0] for frame in frames]
    if len(parts) == 1:
        return np.asarray(parts[0], dtype=np.float32)
    return np.concatenate([np.empty(0, dtype=np.float32), *parts])
