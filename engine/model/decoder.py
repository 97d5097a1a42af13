"""The Qwen3 decoder: grouped-query attention with normalized queries and keys, rotary positions, gated MLP.

Qwen3-ASR declares interleaved three-way rotary sections, but its three position streams are always equal,
which makes them the plain rotary embedding used here.
"""

from __future__ import annotations

import mlx.core as mx

from engine.model.cache import KVCache, OnePass
from engine.model.config import TextConfig
from engine.model.projection import Projection, Weights


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x)."""
    return x * mx.sigmoid(x)


class DecoderLayer:
    """Pre-norm attention and gated feed-forward (canonical tensors under `model.layers.N.`)."""

    def __init__(self, config: TextConfig, weights: Weights) -> None:
        self.config = config
        attention = weights.scope("self_attn")
        self.qkv = attention.projection("q_proj", "k_proj", "v_proj")
        self.out = attention.projection("o_proj")
        self.q_norm = attention.tensor("q_norm.weight")
        self.k_norm = attention.tensor("k_norm.weight")
        mlp = weights.scope("mlp")
        self.gate_up = mlp.projection("gate_proj", "up_proj")
        self.down = mlp.projection("down_proj")
        self.attention_norm = weights.tensor("input_layernorm.weight")
        self.mlp_norm = weights.tensor("post_attention_layernorm.weight")

    def __call__(
        self,
        x: mx.array,
        cache: KVCache | OnePass,
        layer: int,
        offsets: int | mx.array,
        mask: mx.array | str | None,
    ) -> mx.array:
        """x: (rows, width, hidden)."""
        eps = self.config.rms_norm_eps
        x = x + self._attention(mx.fast.rms_norm(x, self.attention_norm, eps), cache, layer, offsets, mask)
        gate, up = mx.split(self.gate_up(mx.fast.rms_norm(x, self.mlp_norm, eps)), 2, axis=-1)
        return x + self.down(silu(gate) * up)

    def _attention(
        self,
        x: mx.array,
        cache: KVCache | OnePass,
        layer: int,
        offsets: int | mx.array,
        mask: mx.array | str | None,
    ) -> mx.array:
        config = self.config
        rows, width, _ = x.shape
        heads = self.qkv(x).reshape(rows, width, -1, config.head_dim)
        query_end = config.head_count
        key_end = query_end + config.kv_head_count
        queries = mx.fast.rms_norm(heads[:, :, :query_end], self.q_norm, config.rms_norm_eps).swapaxes(1, 2)
        keys = mx.fast.rms_norm(heads[:, :, query_end:key_end], self.k_norm, config.rms_norm_eps).swapaxes(
            1, 2
        )
        values = heads[:, :, key_end:].swapaxes(1, 2)
        queries, keys = self._rotate(queries, offsets), self._rotate(keys, offsets)
        all_keys, all_values = cache.append(layer, keys, values)

        mixed = mx.fast.scaled_dot_product_attention(
            queries, all_keys, all_values, scale=config.head_dim**-0.5, mask=mask
        )
        return self.out(mixed.swapaxes(1, 2).reshape(rows, width, -1))

    def _rotate(self, x: mx.array, offsets: int | mx.array) -> mx.array:
        return mx.fast.rope(
            x, self.config.head_dim, traditional=False, base=self.config.rope_theta, scale=1.0, offset=offsets
        )


class Decoder:
    """Embeddings in, final hidden states out; `head` turns those into logits."""

    def __init__(self, config: TextConfig, weights: Weights) -> None:
        self.config = config
        self.dtype = weights.placement.dtype
        body = weights.scope("model")
        self.embed = body.embedding("embed_tokens")
        self.layers = [DecoderLayer(config, body.scope(f"layers.{i}")) for i in range(config.layer_count)]
        self.norm = body.tensor("norm.weight")
        self.head: Projection = (
            weights.projection("lm_head") if weights.has("lm_head.weight") else self.embed.as_head()
        )

    def new_cache(self) -> KVCache:
        """An empty cache of this decoder's shape."""
        return KVCache(self.config.layer_count, self.config.kv_head_count, self.config.head_dim, self.dtype)

    def __call__(self, embeddings: mx.array, cache: KVCache | OnePass) -> mx.array:
        """embeddings: (rows, width, hidden), right-aligned behind the cache -> (rows, width, hidden)."""
        width = embeddings.shape[1]
        cache.reserve(width)
        offsets = cache.rope_offsets()
        mask = cache.attention_mask(width)
        x = embeddings
        for index, layer in enumerate(self.layers):
            x = layer(x, cache, index, offsets, mask)
        cache.advance(width)
        return mx.fast.rms_norm(x, self.norm, self.config.rms_norm_eps)
