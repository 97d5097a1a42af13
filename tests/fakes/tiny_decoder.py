"""A decoder of random weights, small enough for hundreds of passes, and how its weights are placed by default."""

from __future__ import annotations

import mlx.core as mx

from scribewire.engine.model.config import TextConfig
from scribewire.engine.model.decoder import Decoder
from scribewire.engine.model.projection import Placement, QuantizedTensor, Weights

PLAIN = Placement(dtype=mx.float32, dequantizes=True)
CONFIG = TextConfig(
    hidden_size=32,
    intermediate_size=48,
    layer_count=3,
    head_count=4,
    kv_head_count=2,
    head_dim=16,
    vocab_size=40,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    max_positions=4096,
    ties_embeddings=True,
)


def decoder(
    placement: Placement = PLAIN, config: TextConfig = CONFIG, *, is_quantized: bool = False
) -> Decoder:
    """The same weights every time for one configuration. is_quantized: matrices that fill groups of 32, to 8 bits."""
    mx.random.seed(11)
    hidden, inner = config.hidden_size, config.intermediate_size
    heads, kv_heads = config.head_count * config.head_dim, config.kv_head_count * config.head_dim
    matrices = {
        "self_attn.q_proj": (heads, hidden), "self_attn.k_proj": (kv_heads, hidden),
        "self_attn.v_proj": (kv_heads, hidden), "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    norms = {
        "self_attn.q_norm": config.head_dim, "self_attn.k_norm": config.head_dim,
        "input_layernorm": hidden, "post_attention_layernorm": hidden,
    }  # fmt: skip
    tensors = {
        "model.norm.weight": 1 + 0.1 * mx.random.normal((hidden,)),
        "model.embed_tokens.weight": mx.random.normal((config.vocab_size, hidden)),
    }
    for layer in range(config.layer_count):
        base = f"model.layers.{layer}."
        for name, shape in matrices.items():
            tensors[f"{base}{name}.weight"] = 0.3 * mx.random.normal(shape)
        for name, size in norms.items():
            tensors[f"{base}{name}.weight"] = 1 + 0.1 * mx.random.normal((size,))
    return Decoder(config, Weights(_quantized(tensors) if is_quantized else tensors, placement))


def _quantized(tensors: dict[str, mx.array]) -> dict[str, mx.array | QuantizedTensor]:
    found: dict[str, mx.array | QuantizedTensor] = {}
    for name, tensor in tensors.items():
        found[name] = tensor
        if tensor.ndim == 2 and tensor.shape[-1] % 32 == 0:
            found[name] = QuantizedTensor(*mx.quantize(tensor, group_size=32, bits=8), 8, 32, "affine")
    return found
