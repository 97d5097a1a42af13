"""The audio encoder: log-mel frames of several clips to audio embeddings, no clip padded by a single token.

Three strided convolutions turn each second (100 frames) into 13 tokens; transformer layers attend inside
windows of 8 s; two linear maps bring the result to the decoder's width. Tokens of all clips lie in one
flat (tokens, d) array, and only attention sees them as rows of windows. Windows of different lengths are
masked, so a clip's result does not depend on which other clips are in the call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from scribewire.engine.model.attention import PLAIN_ATTENTION, AttentionForm
from scribewire.engine.model.cache import slot_bucket
from scribewire.engine.model.config import AudioConfig
from scribewire.engine.model.projection import Weights

_STEM_ROWS_AT_ONCE = 30
"""Convolution rows (seconds of audio) per pass: bounds the memory of unfolded patches, changes no result."""

_STEM_ROW_STEP = 6
"""Where shapes are to be few, passes have a multiple of so many rows; the rest is zeros, whose results are dropped."""

_FLOAT16_LIMIT = 65504.0 - 1000.0


def gelu(x: mx.array) -> mx.array:
    """Exact GELU by the error function, as the encoder was trained with."""
    return x * 0.5 * (1.0 + mx.erf(x * (1.0 / math.sqrt(2.0))))


def sinusoids(length: int, channels: int) -> np.ndarray:
    """Fixed position table, (length, channels) float32: sines in the first half, cosines in the second.

    Source: Whisper's position table, timescales from 1 to 10,000.
    """
    half = channels // 2
    inverse = np.exp(-np.arange(half, dtype=np.float64) * (math.log(10_000.0) / (half - 1)))
    angles = np.arange(length, dtype=np.float64)[:, None] * inverse[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class WindowLayout:
    """Places of flat tokens in rows of attention windows.

    row_count, row_length: shape of the padded rows. gather: (rows * row_length,) token index of each place.
    scatter: (tokens,) place of each token. mask: (rows, 1, 1, row_length), hides the padding. The last three are
    None when every window is equally long, so that reshaping is enough.
    """

    row_count: int
    row_length: int
    gather: mx.array | None
    scatter: mx.array | None
    mask: mx.array | None

    @classmethod
    def for_clips(
        cls,
        token_counts: list[int],
        tokens_per_window: int,
        form: AttentionForm = PLAIN_ATTENTION,
        dtype: mx.Dtype = mx.float32,
        *,
        has_few_shapes: bool = False,
    ) -> WindowLayout:
        """Cut every clip into windows from its own start; only a clip's last window may be shorter.

        has_few_shapes: rows are as long as a window can be, and their number is one of a few, whatever these are.
        """
        lengths = [
            min(tokens_per_window, count - start)
            for count in token_counts
            for start in range(0, count, tokens_per_window)
        ]
        longest = tokens_per_window if has_few_shapes else max(lengths)
        if has_few_shapes:
            lengths += [0] * (slot_bucket(len(lengths)) - len(lengths))
        if all(length == longest for length in lengths):
            return cls(len(lengths), longest, None, None, None)
        places = np.arange(longest)[None, :]
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])[:, None]
        valid = places < np.asarray(lengths)[:, None]
        gather = np.where(valid, starts + places, 0)
        scatter = np.flatnonzero(valid.reshape(-1))
        return cls(
            len(lengths),
            longest,
            mx.array(gather.reshape(-1).astype(np.int32)),
            mx.array(scatter.astype(np.int32)),
            form.mask(valid[:, None, None, :], dtype),
        )

    def to_rows(self, flat: mx.array) -> mx.array:
        """(tokens, width) -> (rows, row_length, width)."""
        picked = flat if self.gather is None else flat[self.gather]
        return picked.reshape(self.row_count, self.row_length, -1)

    def to_flat(self, rows: mx.array) -> mx.array:
        """(rows, row_length, width) -> (tokens, width)."""
        flat = rows.reshape(self.row_count * self.row_length, -1)
        return flat if self.scatter is None else flat[self.scatter]


class StridedConvolution:
    """3 x 3 convolution, stride 2, padding 1, over (rows, time, mel, channels).

    Published kernels are (out, mel, time, in) in MLX's order; time comes first here, so that frames need no
    transposing.
    """

    def __init__(self, weights: Weights) -> None:
        kernel = mx.contiguous(weights.tensor("weight").swapaxes(1, 2))
        make = weights.placement.convolution or PlainConvolution
        self._convolution = make(kernel, weights.tensor("bias"))

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, time, mel, in) -> (rows, ceil(time / 2), ceil(mel / 2), out)."""
        return self._convolution(x)


class PlainConvolution:
    """`StridedConvolution` by MLX."""

    def __init__(self, kernel: mx.array, bias: mx.array) -> None:
        """kernel: (out, 3, 3, in), bias: (out,)."""
        self.kernel = kernel
        self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, time, mel, in) -> (rows, ceil(time / 2), ceil(mel / 2), out)."""
        return mx.conv2d(x, self.kernel, stride=2, padding=1) + self.bias


class EncoderLayer:
    """Pre-norm attention and feed-forward over flat tokens."""

    def __init__(self, config: AudioConfig, weights: Weights) -> None:
        self.head_count = config.head_count
        self.head_dim = config.head_dim
        self.attention = weights.placement.attention
        attention = weights.scope("self_attn")
        self.qkv = attention.projection("q_proj", "k_proj", "v_proj")
        self.out = attention.projection("out_proj")
        self.fc1 = weights.projection("fc1")
        self.fc2 = weights.projection("fc2")
        self.attention_norm = (
            weights.tensor("self_attn_layer_norm.weight"),
            weights.tensor("self_attn_layer_norm.bias"),
        )
        self.ffn_norm = (weights.tensor("final_layer_norm.weight"), weights.tensor("final_layer_norm.bias"))
        self.gelu = weights.placement.fused(gelu)
        self.clamps = weights.placement.dtype == mx.float16

    def __call__(self, x: mx.array, plan: WindowLayout) -> mx.array:
        """x: (tokens, d), attending inside the plan's windows only."""
        x = x + self._attention(layer_norm(x, self.attention_norm), plan)
        x = x + self.fc2(self.gelu(self.fc1(layer_norm(x, self.ffn_norm))))
        # Published behavior for float16: large activations are clipped, not left to become infinite.
        return mx.clip(x, -_FLOAT16_LIMIT, _FLOAT16_LIMIT) if self.clamps else x

    def _attention(self, x: mx.array, plan: WindowLayout) -> mx.array:
        rows = plan.to_rows(self.qkv(x))
        heads = rows.reshape(plan.row_count, plan.row_length, 3, self.head_count, self.head_dim)
        queries, keys, values = (heads[:, :, i].swapaxes(1, 2) for i in range(3))

        return self.out(plan.to_flat(self.attention.attend(queries, keys, values, plan.mask)))


def layer_norm(x: mx.array, parameters: tuple[mx.array, mx.array]) -> mx.array:
    """Layer normalization with the encoder's epsilon."""
    return mx.fast.layer_norm(x, parameters[0], parameters[1], 1e-5)


class AudioEncoder:
    """Log-mel frames to audio embeddings (canonical tensors under `audio_tower.`)."""

    def __init__(self, config: AudioConfig, weights: Weights) -> None:
        self.config = config
        self.dtype = weights.placement.dtype
        self.attention = weights.placement.attention
        self.gelu = weights.placement.fused(gelu)
        self.plans_by_shape = weights.placement.plans_by_shape
        self.stem = [StridedConvolution(weights.scope(f"conv2d{i}")) for i in (1, 2, 3)]
        self.conv_out = weights.projection("conv_out")
        self.positions = mx.array(sinusoids(config.tokens_per_chunk, config.d_model)).astype(self.dtype)
        self.layers = [EncoderLayer(config, weights.scope(f"layers.{i}")) for i in range(config.layer_count)]
        # Of places in rows that are as long as a window can be, so that few shapes are traced where that is compiled.
        is_compiled = self.plans_by_shape and weights.placement.compiles
        self._of_rows = mx.compile(self._transformed_rows) if is_compiled else self._transformed_rows
        self.ln_post = (weights.tensor("ln_post.weight"), weights.tensor("ln_post.bias"))
        self.proj1 = weights.projection("proj1")
        self.proj2 = weights.projection("proj2")

    def __call__(self, mels: list[mx.array]) -> list[mx.array]:
        """mels: (frames, mel_bins) float32 each -> (tokens, output_dim) each, in the same order.

        A list or a single clip gives the same numbers: nothing is padded to a neighbor's length.
        """
        if not mels:
            return []
        clips = self._stem_tokens([mel.astype(self.dtype) for mel in mels])
        counts = [clip.shape[0] for clip in clips]
        plan = WindowLayout.for_clips(
            counts,
            self.config.tokens_per_window,
            self.attention,
            self.dtype,
            has_few_shapes=self.plans_by_shape,
        )
        x = mx.concatenate(clips, axis=0) if len(clips) > 1 else clips[0]
        if not self.plans_by_shape:
            x = self._transformed(x, plan)
        else:
            # As many tokens as rows have places make few shapes; the tokens as they are, a new one nearly every time.
            x = plan.to_flat(self._of_rows(plan.to_rows(x), plan.mask))
        x = self.proj2(self.gelu(self.proj1(layer_norm(x, self.ln_post))))
        if len(counts) == 1:
            return [x]
        ends = np.cumsum(counts).tolist()
        return [x[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def _transformed_rows(self, rows: mx.array, mask: mx.array | None) -> mx.array:
        """rows: (row_count, row_length, d), mask: as a plan's -> the same shape."""
        count, length, width = rows.shape
        plan = WindowLayout(count, length, gather=None, scatter=None, mask=mask)
        return self._transformed(rows.reshape(count * length, width), plan).reshape(rows.shape)

    def _transformed(self, x: mx.array, plan: WindowLayout) -> mx.array:
        for layer in self.layers:
            x = layer(x, plan)
        return x

    def _stem_tokens(self, mels: list[mx.array]) -> list[mx.array]:
        """Convolve all clips, rows of equal width together: (tokens, d) each.

        A clip of several chunks has its last one padded to full width; a clip that is one short chunk
        keeps its own width. Padding becomes nonzero after the first bias, so which of the two applies
        changes the last token.
        """
        frames = self.config.chunk_frames
        by_width: dict[int, list[mx.array]] = {}
        homes: list[tuple[int, int, int]] = []
        for mel in mels:
            count = mel.shape[0]
            if count > frames:
                chunk_count = -(-count // frames)
                padded = mx.pad(mel, [(0, chunk_count * frames - count), (0, 0)])
                rows, width = padded.reshape(chunk_count, frames, -1), frames
            else:
                rows, width = mel[None], count
            group = by_width.setdefault(width, [])
            homes.append((width, sum(part.shape[0] for part in group), rows.shape[0]))
            group.append(rows)
        outputs = {width: self._convolve(mx.concatenate(parts)) for width, parts in by_width.items()}
        clips = []
        for mel, (width, start, row_count) in zip(mels, homes, strict=True):
            rows = outputs[width][start : start + row_count]
            tokens = self.config.token_count(mel.shape[0])
            clips.append(rows.reshape(-1, self.config.d_model)[:tokens])
        return clips

    def _convolve(self, rows: mx.array) -> mx.array:
        """(rows, width, mel_bins) -> (rows, ceil(width / 8), d), positions added, restarting in every row."""
        parts = []
        for start in range(0, rows.shape[0], _STEM_ROWS_AT_ONCE):
            some = rows[start : start + _STEM_ROWS_AT_ONCE, :, :, None]
            count = some.shape[0]
            if self.plans_by_shape and count % _STEM_ROW_STEP:
                some = mx.pad(some, [(0, -count % _STEM_ROW_STEP), (0, 0), (0, 0), (0, 0)])
            parts.append(self._convolve_some(some)[:count])
        return mx.concatenate(parts) if len(parts) > 1 else parts[0]

    def _convolve_some(self, x: mx.array) -> mx.array:
        for convolution in self.stem:
            x = self.gelu(convolution(x))
        # (rows, time, mel, channels) -> channel-major features, the order conv_out was trained with.
        x = x.swapaxes(2, 3).reshape(x.shape[0], x.shape[1], -1)
        return self.conv_out(x) + self.positions[: x.shape[1]]
