"""From decoded sound to samples: placed in time, one channel, 16 kHz, float32, within the bounds of every recording.

Sound stands at the times that a player shows, with silence where a file's stamps leave a gap. Time begins where the
container begins, with whichever of its tracks is first. A start later than that, and a gap in the stamps, become
silence. A stamp alone is not believed: sound is held back until a second of what follows agrees. Where stamps go back
(joined recordings, a clock that was set), or leap further than the file can be long, samples are counted on, so that
bad stamps are never worse than none.

It refuses what cannot be a recording in the stated type: NaN, floats on an integer scale, too many channels, rates
outside the accepted range. It never changes loudness: no gain, no peak normalization.

The rate is converted in blocks by libswresample. The wheels of PyAV carry no soxr (the official package's resampler),
so libswresample's own sinc filter is lengthened until it is better than soxr's "HQ": its defaults lose 0.4 dB at 7 kHz
and let 8.2 kHz through at -15 dB. Measured from 44.1, 48 and 22.05 kHz with sines, with the settings below: within 0.01
dB up to 7.3 kHz, distortion and noise under -120 dB, everything from 8.2 kHz on (which would fold back into the band)
under -110 dB. `tests/unit/test_resample.py` holds these figures.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt

from scribewire.engine.protocol.config import MIN_SAMPLES, SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import (
    AudioEmpty,
    AudioParametersUnsupported,
    AudioTooLong,
    AudioTooShort,
    AudioUndecodable,
)

Samples = npt.NDArray[np.float32]

_FILTER = {"filter_size": "192", "cutoff": "0.965", "filter_type": "kaiser", "kaiser_beta": "12"}

Planes = Sequence[npt.NDArray[np.generic]] | npt.NDArray[np.generic]
"""Channels, (n,) each, of an accepted type."""

_STRETCH_SECONDS = 0.1
_MEMORY_SECONDS = 0.03
_MEAN = -1
_FADES_PER_SECOND = 200
_CANCELLED = 0.03

ABSURD_PEAK = 8.0
"""18 dB over full scale: no recording, but integers that were cast to float without being scaled."""

MAX_UNDECLARED_GAP_SECONDS = 300.0
"""The longest gap that is kept in a container that does not declare its end."""

_GAP_SECONDS = 0.1
_BACK_SECONDS = 1.0
_AGREEMENT_SECONDS = 1.0
_AGREEMENT_FRAMES = 64
_MAX_NAMED = 5


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


def prepare_samples(samples: npt.NDArray[np.generic], sample_rate_hz: int, *, limits: AudioLimits) -> Samples:
    """Convert the caller's own samples to 16 kHz mono float32 in [-1, 1].

    samples: int16, int32, uint8 or float; (n,), or two-dimensional, where the shorter axis holds the channels: both
             (n, channels) and (channels, n) are understood. Integers are scaled by their full scale; floats are
             taken as they are and clipped.
    raises:  AudioEmpty, AudioTooShort, AudioTooLong, AudioParametersUnsupported (type, shape, rate, channels, floats
             on an integer scale), AudioUndecodable (NaN or infinite)
    """
    if samples.ndim not in (1, 2):
        raise AudioParametersUnsupported(
            f"samples must have one or two dimensions, not {samples.ndim}: pass (n,) or (n, channels)"
        )
    if samples.size == 0:
        raise AudioEmpty("the recording holds no samples: pass at least 201 at 16 kHz")
    check_rate(sample_rate_hz, limits)
    planes = samples[np.newaxis, :] if samples.ndim == 1 else samples
    if planes.shape[0] > planes.shape[1]:
        planes = planes.T
    check_channels(planes.shape[0], limits)
    check_duration(planes.shape[1] / sample_rate_hz, limits)
    downmix, second = Downmix(), int(sample_rate_hz)
    starts = range(0, planes.shape[1], second)
    mono = np.concatenate([downmix.mono(planes[:, at : at + second], second) for at in starts])
    peak = peak_of(mono)
    if not np.isfinite(peak):
        raise AudioUndecodable("the samples contain NaN or infinite values: replace them first")
    if peak > ABSURD_PEAK:
        raise AudioParametersUnsupported(
            f"float samples must lie in [-1, 1] and reach {peak:.6g}: divide by the full scale of their integer type"
        )
    resampler = Resampler(sample_rate_hz)
    parts = [resampler.push(mono[at : at + second]) for at in range(0, len(mono), second)]
    prepared: Samples = np.clip(np.concatenate([*parts, resampler.finish()]), -1.0, 1.0)
    check_not_too_short(len(prepared))
    return prepared


class Downmix:
    """Channels to one, by the plain mean; by one channel where the mean cancels what every channel holds.

    Loudness is compared in stretches of at most 0.1 s. A change fades within 5 ms, so that nothing clicks.
    """

    def __init__(self) -> None:
        self._energies: npt.NDArray[np.float64] = np.zeros(0)
        self._source = _MEAN

    def mono(self, planes: Planes, rate_hz: int) -> Samples:
        """(channels, n) of an accepted type to (n,) float32.

        raises: AudioParametersUnsupported for other types
        Source: librosa.to_mono, as the official package calls it, but for channels that cancel.
        """
        channels = [_as_float(plane) for plane in planes]
        if len(channels) == 1:
            return channels[0]
        # The channels one after another: several times quicker than a mean along an axis of two.
        mean = channels[0] + channels[1]
        for channel in channels[2:]:
            mean += channel
        mean *= np.float32(1.0 / len(channels))
        if is_first := len(self._energies) != len(channels) + 1:
            self._energies, self._source = np.zeros(len(channels) + 1), _MEAN
        mono, stretch = mean, max(1, int(_STRETCH_SECONDS * rate_hz))
        for start in range(0, len(mean), stretch):
            sources = [one[start : start + stretch] for one in (*channels, mean)]
            before = self._source
            self._source = self._choice(sources, rate_hz)
            if self._source == before == _MEAN:
                continue
            mono = mean.copy() if mono is mean else mono
            new, old = sources[self._source], sources[before]
            mono[start : start + stretch] = new
            if new is not old and not (is_first and start == 0):
                fading = min(len(new), max(1, rate_hz // _FADES_PER_SECOND))
                weight = np.arange(1, fading + 1, dtype=np.float32) / np.float32(fading)
                mono[start : start + fading] = weight * new[:fading] + (1 - weight) * old[:fading]
        return mono

    def _choice(self, sources: list[Samples], rate_hz: int) -> int:
        """What to take of a stretch: the number of a channel, or _MEAN, which is the last source."""
        self._energies *= math.exp(-len(sources[0]) / (_MEMORY_SECONDS * rate_hz))
        self._energies += [float(np.dot(one, one)) for one in sources]
        *each, mean = self._energies
        # Channels without relation leave a part of 1 / count of their mean energy.
        share = mean * len(each) ** 2 / max(sum(each), 1e-30)
        if share > (_CANCELLED if self._source == _MEAN else 10 * _CANCELLED):
            return _MEAN
        loudest = int(np.argmax(each))
        return loudest if self._source == _MEAN or each[self._source] < each[loudest] / 4 else self._source


def peak_of(samples: Samples) -> float:
    """Largest |x| of (n,) samples; NaN when one of them is."""
    return max(float(samples.max()), -float(samples.min())) if len(samples) else 0.0


def _as_float(samples: npt.NDArray[np.generic]) -> Samples:
    """float32 with full scale at 1; int16 / 32768 is exact."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - np.float32(128.0)) * np.float32(1.0 / 128.0)
    if samples.dtype.kind == "i" and samples.dtype.itemsize in (2, 4):
        scaled = samples.astype(np.float32)
        scaled *= np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
        return scaled
    raise AudioParametersUnsupported(
        f"samples of type {samples.dtype} are not accepted: pass float32, int16, int32 or uint8"
    )


def check_rate(rate_hz: int, limits: AudioLimits) -> None:
    """Raise AudioParametersUnsupported outside the accepted rates."""
    if not limits.min_sample_rate_hz <= rate_hz <= limits.max_sample_rate_hz:
        raise AudioParametersUnsupported(
            f"a sample rate of {rate_hz} Hz is not accepted: convert to one from {limits.min_sample_rate_hz} to "
            f"{limits.max_sample_rate_hz} Hz"
        )


def check_channels(count: int, limits: AudioLimits) -> None:
    """Raise AudioParametersUnsupported beyond the accepted number of channels."""
    if not 1 <= count <= limits.max_channels:
        raise AudioParametersUnsupported(
            f"{count} channels are not accepted: send from 1 to {limits.max_channels}"
        )


def check_duration(seconds: float, limits: AudioLimits) -> None:
    """Raise AudioTooLong beyond the limit."""
    if seconds > limits.max_duration_seconds:
        raise AudioTooLong(
            f"the recording is longer than the limit of {limits.max_duration_seconds:g} s: send it in parts"
        )


def check_not_too_short(sample_count: int) -> None:
    """Raise AudioTooShort below the length of one analysis window; sample_count is at 16 kHz."""
    if sample_count < MIN_SAMPLES:
        raise AudioTooShort(
            f"the recording has {sample_count} samples at 16 kHz and needs {MIN_SAMPLES} (13 ms): send a longer one"
        )


class Frame(NamedTuple):
    """Decoded sound at its own rate. samples: (n,) float32, mono. stamp_seconds: as the container has it, or None."""

    rate_hz: int
    samples: Samples
    stamp_seconds: float | None


class Timeline:
    """Times of one track. position_seconds: end of what was placed so far, silence included."""

    def __init__(self, *, start_seconds: float | None, end_seconds: float | None) -> None:
        """start_seconds: stamp at which the container begins, None for the first frame's.

        end_seconds: the container's declared length, None where it declares none.
        """
        self.position_seconds = 0.0
        self._offset_seconds = None if start_seconds is None else -start_seconds
        self._end_seconds = end_seconds
        self._gaps: list[tuple[float, float]] = []
        self._leaps: list[tuple[float, float]] = []

    def place(self, frames: Iterator[Frame]) -> Iterator[tuple[int, Samples]]:
        """(rate in Hz, samples) of every frame in order, and of the silence before it, at most a second at a time."""
        held: deque[Frame] = deque()
        while (frame := held.popleft() if held else next(frames, None)) is not None:
            rate_hz = frame.rate_hz
            for count in _seconds_of(round(self._gap_before(frame, held, frames) * rate_hz), rate_hz):
                self.position_seconds += count / rate_hz
                yield rate_hz, np.zeros(count, np.float32)
            self.position_seconds += len(frame.samples) / rate_hz
            yield rate_hz, frame.samples

    def warnings(self, offset_seconds: float) -> list[str]:
        """What to say of gaps and leaps. offset_seconds: what stands in the file before this track's beginning."""
        gaps = [gap for gap in self._gaps if gap[0] > 0]  # a late start is no loss
        lines = []
        if gaps:
            longest = sorted(sorted(gaps, key=lambda gap: gap[0] - gap[1])[:_MAX_NAMED])
            places = ", ".join(f"{a + offset_seconds:.1f} to {b + offset_seconds:.1f} s" for a, b in longest)
            missing = sum(end - start for start, end in gaps)
            rest = f" ({missing:.1f} s in {len(gaps)} places in all)" if len(gaps) > len(longest) else ""
            lines.append(f"sound is missing from {places}{rest}: silence stands in its place")
        for at, length in self._leaps[:_MAX_NAMED]:
            lines.append(
                f"the time stamps leap by {length:.0f} s at {at + offset_seconds:.1f} s: no silence was put in, "
                "so later times may be too early"
            )
        return lines

    def _gap_before(self, frame: Frame, held: deque[Frame], frames: Iterator[Frame]) -> float:
        """Seconds of silence to put before a frame. Fills `held` with the frames that had to be looked at."""
        if frame.stamp_seconds is None:
            return 0.0
        if self._offset_seconds is None:
            self._offset_seconds = -frame.stamp_seconds
        ahead = frame.stamp_seconds + self._offset_seconds - self.position_seconds
        if -_BACK_SECONDS < ahead < _GAP_SECONDS:
            return 0.0
        stamps = _look_ahead(frame, held, frames)
        if ahead < 0:
            if max(stamps) + self._offset_seconds < self.position_seconds - _BACK_SECONDS:
                self._offset_seconds -= ahead
            return 0.0
        ahead = min(stamps) + self._offset_seconds - self.position_seconds
        if ahead < _GAP_SECONDS:
            return 0.0
        room = MAX_UNDECLARED_GAP_SECONDS
        if self._end_seconds is not None:
            room = self._end_seconds + _GAP_SECONDS - self.position_seconds
        if ahead > room:
            self._offset_seconds -= ahead
            self._leaps.append((self.position_seconds, ahead))
            return 0.0
        self._gaps.append((self.position_seconds, self.position_seconds + ahead))
        return ahead


def _look_ahead(frame: Frame, held: deque[Frame], frames: Iterator[Frame]) -> list[float]:
    """Stamp of a frame by its own word, and by those in the second that follows, measured by samples or by stamps."""
    assert frame.stamp_seconds is not None
    stamps, seconds = [frame.stamp_seconds], len(frame.samples) / frame.rate_hz
    for number in range(_AGREEMENT_FRAMES):
        if max(seconds, stamps[-1] - stamps[0]) >= _AGREEMENT_SECONDS:
            break
        if number == len(held):
            if (following := next(frames, None)) is None:
                break
            held.append(following)
        if (stamp := held[number].stamp_seconds) is not None:
            stamps.append(stamp - seconds)
        seconds += len(held[number].samples) / held[number].rate_hz
    return stamps


def _seconds_of(count: int, rate_hz: int) -> Iterator[int]:
    while count > 0:
        yield min(count, rate_hz)
        count -= rate_hz
