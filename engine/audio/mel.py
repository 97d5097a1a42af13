"""Log-mel frames, as Qwen3-ASR's processor makes them from 16 kHz mono audio.

Each clip is framed on its own: reflection at its own edges, its own loudness floor. Frames of two calls must
not be joined.
"""

from __future__ import annotations

import functools
import math

import mlx.core as mx
import numpy as np

from scribewire.engine.protocol.config import MIN_SAMPLES, SAMPLE_RATE_HZ
from scribewire.engine.protocol.errors import AudioTooShort

FFT_SIZE = 400
HOP_SAMPLES = 160
MEL_BINS = 128

_FLOOR_POWER = 1e-10
_FLOOR_BELOW_PEAK = 8.0


def log_mel(waveform: mx.array) -> mx.array:
    """Log-mel frames of one clip.

    waveform: (samples,) float32, mono 16 kHz, in [-1, 1]
    returns:  (samples // 160, 128) float32, one frame per 10 ms
    raises:   AudioTooShort below 201 samples, which cannot be reflect-padded
    The floor follows this waveform's own loudest bin. Digital silence gives a constant -1.5.
    Source: WhisperFeatureExtractor (periodic Hann window, centered frames with reflection, last frame
    dropped, Slaney filters), as Qwen3-ASR's processor calls it without padding.
    """
    sample_count = waveform.shape[0]
    if sample_count < MIN_SAMPLES:
        raise AudioTooShort(
            f"the recording has {sample_count} samples at 16 kHz; at least {MIN_SAMPLES} are needed"
        )
    power = _power_spectrum(waveform.astype(mx.float32), sample_count // HOP_SAMPLES)
    mel = power @ _mel_filters_on_device()
    logarithm = mx.log10(mx.maximum(mel, _FLOOR_POWER))
    logarithm = mx.maximum(logarithm, mx.max(logarithm) - _FLOOR_BELOW_PEAK)
    return (logarithm + 4.0) / 4.0


def log_mel_batch(waveforms: list[mx.array]) -> list[mx.array]:
    """`log_mel` of several clips, each with its true length: one lazy graph, nothing padded."""
    return [log_mel(waveform) for waveform in waveforms]


def _power_spectrum(waveform: mx.array, frame_count: int) -> mx.array:
    """(frames, 201) squared magnitudes of centered, reflect-padded, Hann-windowed frames."""
    half = FFT_SIZE // 2
    left = waveform[half:0:-1]
    right = waveform[-2 : -half - 2 : -1]
    padded = mx.contiguous(mx.concatenate([left, waveform, right]))
    frames = mx.as_strided(padded, (frame_count, FFT_SIZE), (HOP_SAMPLES, 1))
    spectrum = mx.fft.rfft(frames * _hann_on_device(), axis=-1)
    return mx.square(spectrum.real) + mx.square(spectrum.imag)


def hann_window() -> np.ndarray:
    """Periodic Hann window, (400,) float32."""
    angles = 2.0 * np.pi * np.arange(FFT_SIZE) / FFT_SIZE
    window: np.ndarray = (0.5 - 0.5 * np.cos(angles)).astype(np.float32)
    return window


def mel_filters() -> np.ndarray:
    """Filterbank (201, 128) float32: triangles built in Hz from 0 to 8 kHz, each of unit area.

    Source: Slaney's Auditory Toolbox (linear below 1 kHz, 27 steps per factor 6.4 above) with his area norm.
    """
    bins = np.linspace(0.0, SAMPLE_RATE_HZ / 2, FFT_SIZE // 2 + 1)
    top = _hz_to_mel(SAMPLE_RATE_HZ / 2)
    edges = np.array([_mel_to_hz(mel) for mel in np.linspace(0.0, top, MEL_BINS + 2)])
    widths = np.diff(edges)
    slopes = edges[None, :] - bins[:, None]
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: np.ndarray = (triangles * (2.0 / (edges[2:] - edges[:-2]))).astype(np.float32)
    return filters


_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_START_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return _LOG_START_MEL + math.log(hz / _LOG_START_HZ) / _LOG_STEP


def _mel_to_hz(mel: float) -> float:
    if mel < _LOG_START_MEL:
        return mel * _LINEAR_HZ_PER_MEL
    return _LOG_START_HZ * math.exp(_LOG_STEP * (mel - _LOG_START_MEL))


@functools.cache
def _hann_on_device() -> mx.array:
    return mx.array(hann_window())


@functools.cache
def _mel_filters_on_device() -> mx.array:
    return mx.array(mel_filters())
