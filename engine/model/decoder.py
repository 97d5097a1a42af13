"""The Qwen3 decoder: grouped-query attention with normalized queries and keys, rotary positions, gated MLP.

Qwen3-ASR declares interleaved three-way rotary sections, but its three position streams are always equal,
which makes them the plain rotary embedding used here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx

from scribewire.engine.model.cache import KVCache, OnePass
from scribewire.engine.model.config import TextConfig
from scribewire.engine.model.projection import Projection, Weights
from scribewire.engine.model.step_attention import StepAttention, trusted


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x)."""
    return x * mx.sigmoid(x)


def gated(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up."""
    return silu(gate) * up


class DecoderLayer:
    """Pre-norm attention and gated feed-forward (canonical tensors under `model.layers.N.`)."""

    def __init__(self, config: TextConfig, weights: Weights) -> None:
        self.config = config
        attention = weights.scope("self_attn")
        self.qkv = attention.projection("q_proj", "k_proj", "v_proj")
        self.out = attention.projection("o_proj")
        self.turns_apart = weights.placement.turns_apart
        self.head_scales = self._scales(attention.tensor("q_norm.weight"), attention.tensor("k_norm.weight"))
        mlp = weights.scope("mlp")
        self.gate_up = mlp.projection("gate_proj", "up_proj")
        self.down = mlp.projection("down_proj")
        self.gated = weights.placement.fused(gated)
        self.attention_norm = weights.tensor("input_layernorm.weight")
        self.mlp_norm = weights.tensor("post_attention_layernorm.weight")

    def _scales(self, q_norm: mx.array, k_norm: mx.array) -> mx.array:
        """(heads of queries, keys and values, head_dim): the weights of the two norms, and ones."""
        config = self.config
        parts = [
            mx.broadcast_to(scale, (count, config.head_dim))
            for scale, count in (
                (q_norm, config.head_count),
                (k_norm, config.kv_head_count),
                (mx.ones_like(k_norm), config.kv_head_count),
            )
        ]
        return mx.concatenate(parts)

    def heads(self, x: mx.array) -> mx.array:
        """x: (rows * width, hidden) -> queries, keys and values as the product gives them, all heads side by side."""
        return self.qkv(mx.fast.rms_norm(x, self.attention_norm, self.config.rms_norm_eps))

    def before_attention(
        self, x: mx.array, offsets: int | mx.array, width: int
    ) -> tuple[mx.array, mx.array, mx.array]:
        """x: (rows * width, hidden) -> queries, keys and values, each (rows, its heads, width, head_dim)."""
        config, eps = self.config, self.config.rms_norm_eps
        heads = self.heads(x)
        query_end = config.head_count
        key_end = query_end + config.kv_head_count
        # All heads at once, the values' too, which are not used: one norm over a whole array and one rotation start
        # half as many kernels as a norm and a rotation of each part.
        head_total = key_end + config.kv_head_count
        if width == 1:
            # In the wanted order already: turning axes of length 1 would be work for the host alone.
            heads, scales = heads.reshape(-1, head_total, 1, config.head_dim), self.head_scales[:, None]
        else:
            heads, scales = heads.reshape(-1, width, head_total, config.head_dim), self.head_scales
        normed = mx.fast.rms_norm(heads, None, eps)
        if self.turns_apart and width == 1 and heads.shape[0] > 1:
            parts = [slice(0, query_end), slice(query_end, key_end)]
            queries, keys = (self._rotate(normed[:, one] * scales[one], offsets) for one in parts)
            return queries, keys, heads[:, key_end:]
        normed = normed * scales
        if width > 1:
            heads, normed = heads.swapaxes(1, 2), normed.swapaxes(1, 2)
        turned = self._rotate(normed[:, :key_end], offsets)
        return turned[:, :query_end], turned[:, query_end:], heads[:, key_end:]

    def after_attention(self, x: mx.array, mixed: mx.array) -> mx.array:
        """x as it went into the layer, mixed: (rows * width, heads * head_dim) -> what leaves the layer."""
        x = self.out.added_to(x, mixed)
        gate_up = self.gate_up(mx.fast.rms_norm(x, self.mlp_norm, self.config.rms_norm_eps))
        gate, up = mx.split(gate_up, 2, axis=-1)
        return self.down.added_to(x, self.gated(gate, up))

    def _rotate(self, x: mx.array, offsets: int | mx.array) -> mx.array:
        return mx.fast.rope(
            x, self.config.head_dim, traditional=False, base=self.config.rope_theta, scale=1.0, offset=offsets
        )


Heads = tuple[mx.array, mx.array, mx.array]
"""Queries, keys and values."""


@dataclass(frozen=True, slots=True)
class Stretches:
    """The decoder cut at its attentions, the only parts that touch the cache; what lies between can be compiled.

    Rows of a pass lie behind each other, (rows * width, hidden): products of two axes are the fewest graph nodes.

    first: (x, offsets, width) -> heads. between: for each layer but the first, (x, mixed, offsets, width) ->
    (x, heads): the end of the layer before and its own beginning. last: (x, mixed) -> final hidden states.
    """

    first: Callable[[mx.array, int | mx.array, int], Heads]
    between: list[Callable[[mx.array, mx.array, int | mx.array, int], tuple[mx.array, Heads]]]
    last: Callable[[mx.array, mx.array], mx.array]

    @classmethod
    def of(cls, layers: list[DecoderLayer], norm: mx.array, eps: float) -> Stretches:
        """The stretches of these layers and the norm behind them."""

        def joint(before: DecoderLayer, after: DecoderLayer) -> Callable[..., tuple[mx.array, Heads]]:
            def run(
                x: mx.array, mixed: mx.array, offsets: int | mx.array, width: int
            ) -> tuple[mx.array, Heads]:
                x = before.after_attention(x, mixed)
                return x, after.before_attention(x, offsets, width)

            return run

        return cls(
            first=layers[0].before_attention,
            between=[joint(before, after) for before, after in pairwise(layers)],
            last=lambda x, mixed: mx.fast.rms_norm(layers[-1].after_attention(x, mixed), norm, eps),
        )

    def compiled(self) -> Stretches:
        """The same, traced once for every shape, which spares Python most of a step and fuses small kernels."""
        return Stretches(
            mx.compile(self.first), [mx.compile(one) for one in self.between], mx.compile(self.last)
        )


def whole_step(
    layers: list[DecoderLayer], norm: mx.array, attention: StepAttention
) -> Callable[..., mx.array]:
    """A step with the kernel for its attention: (x (rows, hidden), layout, all keys, then all values) -> final states.

    Nothing in it is a number that changes from step to step, so it can be compiled as a whole.
    """

    def run(x: mx.array, layout: mx.array, buffers: list[mx.array]) -> mx.array:
        for layer, keys, values in zip(layers, buffers[: len(layers)], buffers[len(layers) :], strict=True):
            x = layer.after_attention(x, attention(layer.heads(x), layer.head_scales, keys, values, layout))
        return mx.fast.rms_norm(x, norm, layers[0].config.rms_norm_eps)

    return run


class Decoder:
    """Embeddings in, final hidden states out; `head` turns those into logits."""

    def __init__(self, config: TextConfig, weights: Weights) -> None:
        self.config = config
        self.dtype = weights.placement.dtype
        self.attention = weights.placement.attention
        self.slot_counts = weights.placement.slot_counts
        body = weights.scope("model")
        self.embed = body.embedding("embed_tokens")
        self.layers = [DecoderLayer(config, body.scope(f"layers.{i}")) for i in range(config.layer_count)]
        self.norm = body.tensor("norm.weight")
        self.head: Projection = (
            weights.projection("lm_head") if weights.has("lm_head.weight") else self.embed.as_head()
        )
        self._stretches = Stretches.of(self.layers, self.norm, config.rms_norm_eps)
        self._compiled = self._stretches.compiled() if weights.placement.compiles else None
        own = weights.placement.step_attention
        kernel = None if own is None else trusted(own(config), config, self.dtype)
        self._step: Callable[..., mx.array] | None = None
        if kernel is not None:
            step = whole_step(self.layers, self.norm, kernel)
            self._step = mx.compile(step) if weights.placement.compiles else step

    def new_cache(self) -> KVCache:
        """An empty cache of this decoder's shape."""
        config = self.config
        shape = (config.layer_count, config.kv_head_count, config.head_dim)
        return KVCache(*shape, self.dtype, self.attention, self.slot_counts)

    def __call__(self, embeddings: mx.array, cache: KVCache | OnePass) -> mx.array:
        """embeddings: (rows, width, hidden), right-aligned behind the cache -> (rows, width, hidden)."""
        rows, width, hidden = embeddings.shape
        cache.reserve(width)
        x = embeddings.reshape(rows * width, hidden)
        if width == 1 and self._step is not None and isinstance(cache, KVCache) and cache.has_buffers:
            x = self._step(x, *cache.buffers_to_write())
            cache.written_by(x)
        else:
            x = self._by_stretches(x, width, cache)
        cache.advance(width)
        return x.reshape(rows, width, hidden)

    def _by_stretches(self, x: mx.array, width: int, cache: KVCache | OnePass) -> mx.array:
        offsets = cache.rope_offsets()
        mask = self.attention.spread(cache.attention_mask(width), self.config.head_count)
        stretches = self._stretches
        if width == 1 and self._compiled is not None:
            stretches = self._compiled
            # A number would be a constant, and every step would be compiled anew.
            offsets = mx.array(offsets) if isinstance(offsets, int) else offsets
        heads = stretches.first(x, offsets, width)
        for layer, following in enumerate(stretches.between, start=1):
            x, heads = following(x, self._attend(cache, layer - 1, heads, mask), offsets, width)
        return stretches.last(x, self._attend(cache, len(stretches.between), heads, mask))

    def _attend(
        self, cache: KVCache | OnePass, layer: int, heads: Heads, mask: mx.array | str | None
    ) -> mx.array:
        queries, keys, values = heads
        all_keys, all_values = cache.append(layer, keys, values)
        return self.attention.attend(queries, all_keys, all_values, mask)
