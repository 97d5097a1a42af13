"""The Qwen3-ASR network in PyTorch, as functions over a dictionary of parameters.

Names are those of the original checkpoints (`thinker.audio_tower...`, `thinker.model...`), so what is trained here is
what is written. Everything works on padded batches, yet gives each clip what it would get alone: the reflection at
its own end, its own mel floor, its own tail chunk and attention windows. Training only; the engine has its own MLX
network and never imports this. It refuses untied heads and multi-axis positions: the demo model has neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = Mapping[str, Tensor]

FFT_SIZE = 400
HOP = 160
MEL_BINS = 128
CHUNK_FRAMES = 100
CHUNK_TOKENS = 13
WINDOW_TOKENS = 104
SHORTEST_SAMPLES = 201
NORM_EPSILON = 1e-6
LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Size:
    """Sizes of the demo network. head_dim 128 and the rotary base are what other Qwen3-ASR loaders assume."""

    vocabulary: int = 4096
    audio_width: int = 256
    audio_layers: int = 6
    audio_heads: int = 4
    audio_ffn: int = 1024
    stem_channels: int = 64
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 128
    ffn: int = 960
    rope_theta: float = 1_000_000.0


def parameter_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint with its shape; Linear weights are (out, in), convolutions OIHW."""
    audio, channels, width = size.audio_width, size.stem_channels, size.width
    tower = "thinker.audio_tower."
    shapes: dict[str, tuple[int, ...]] = {}
    for number, inputs in ((1, 1), (2, channels), (3, channels)):
        shapes[f"{tower}conv2d{number}.weight"] = (channels, inputs, 3, 3)
        shapes[f"{tower}conv2d{number}.bias"] = (channels,)
    shapes[f"{tower}conv_out.weight"] = (audio, channels * MEL_BINS // 8)
    for layer in range(size.audio_layers):
        base = f"{tower}layers.{layer}."
        for part in ("q", "k", "v", "out"):
            shapes[f"{base}self_attn.{part}_proj.weight"] = (audio, audio)
            shapes[f"{base}self_attn.{part}_proj.bias"] = (audio,)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"{base}{norm}.weight"] = (audio,)
            shapes[f"{base}{norm}.bias"] = (audio,)
        shapes[f"{base}fc1.weight"], shapes[f"{base}fc1.bias"] = (size.audio_ffn, audio), (size.audio_ffn,)
        shapes[f"{base}fc2.weight"], shapes[f"{base}fc2.bias"] = (audio, size.audio_ffn), (audio,)
    shapes[f"{tower}ln_post.weight"], shapes[f"{tower}ln_post.bias"] = (audio,), (audio,)
    shapes[f"{tower}proj1.weight"], shapes[f"{tower}proj1.bias"] = (audio, audio), (audio,)
    shapes[f"{tower}proj2.weight"], shapes[f"{tower}proj2.bias"] = (width, audio), (width,)
    shapes["thinker.model.embed_tokens.weight"] = (size.vocabulary, width)
    for layer in range(size.layers):
        base = f"thinker.model.layers.{layer}."
        shapes[f"{base}self_attn.q_proj.weight"] = (size.heads * size.head_dim, width)
        shapes[f"{base}self_attn.k_proj.weight"] = (size.kv_heads * size.head_dim, width)
        shapes[f"{base}self_attn.v_proj.weight"] = (size.kv_heads * size.head_dim, width)
        shapes[f"{base}self_attn.o_proj.weight"] = (width, size.heads * size.head_dim)
        shapes[f"{base}self_attn.q_norm.weight"] = (size.head_dim,)
        shapes[f"{base}self_attn.k_norm.weight"] = (size.head_dim,)
        shapes[f"{base}mlp.gate_proj.weight"] = (size.ffn, width)
        shapes[f"{base}mlp.up_proj.weight"] = (size.ffn, width)
        shapes[f"{base}mlp.down_proj.weight"] = (width, size.ffn)
        shapes[f"{base}input_layernorm.weight"] = (width,)
        shapes[f"{base}post_attention_layernorm.weight"] = (width,)
    shapes["thinker.model.norm.weight"] = (width,)
    return shapes


def initial_parameters(size: Size, seed: int) -> dict[str, Tensor]:
    """float32 on the CPU. Weights that write into a residual stream start smaller, by the depth."""
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, Tensor] = {}
    for name, shape in parameter_shapes(size).items():
        if len(shape) == 1:
            is_scale = name.endswith(("norm.weight", "ln_post.weight"))
            parameters[name] = torch.ones(shape) if is_scale else torch.zeros(shape)
            continue
        deviation = 0.04 if "embed_tokens" in name else math.prod(shape[1:]) ** -0.5
        if name.endswith(("out_proj.weight", "fc2.weight")):
            deviation *= (2 * size.audio_layers) ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation *= (2 * size.layers) ** -0.5
        parameters[name] = torch.randn(shape, generator=generator) * deviation
    return parameters


def mel_filterbank() -> Tensor:
    """(201, 128) float32: Slaney scale, Slaney area norm, 0 to 8000 Hz, triangles in Hz."""
    step, log_start_hz, log_start_mel, log_step = 200.0 / 3, 1000.0, 15.0, math.log(6.4) / 27.0

    def to_hz(mel: Tensor) -> Tensor:
        return torch.where(
            mel >= log_start_mel, log_start_hz * torch.exp(log_step * (mel - log_start_mel)), mel * step
        )

    top = log_start_mel + math.log(8000.0 / log_start_hz) / log_step
    corners = to_hz(torch.linspace(0, top, MEL_BINS + 2, dtype=torch.float64))
    bins = torch.linspace(0, 8000, FFT_SIZE // 2 + 1, dtype=torch.float64)
    width = corners[1:] - corners[:-1]
    slopes = corners[None, :] - bins[:, None]
    triangles = torch.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]).clamp(min=0)
    return (triangles * (2.0 / (corners[2:] - corners[:-2]))).to(torch.float32)


def log_mel(
    waveforms: Tensor, sample_counts: Tensor, filterbank: Tensor, equalizer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-mel frames of a padded batch, each clip as if alone.

    waveforms:     (batch, samples) float32, mono 16 kHz; at least 201 samples of each row count
    sample_counts: (batch,) int64
    equalizer:     (batch, 201) gains on the power spectrum, for training
    returns:       (batch, 128, frames) float32 with zeros past each clip's end, and (batch,) frame counts
    """
    frame_counts = sample_counts // HOP
    # The longest clip decides: its row is as long as the tensor.
    frame_total = waveforms.shape[1] // HOP
    place = torch.arange(waveforms.shape[1] + FFT_SIZE, device=waveforms.device) - FFT_SIZE // 2
    place = place.abs()[None, :]
    last = (sample_counts - 1)[:, None]
    place = torch.where(place > last, 2 * last - place, place).clamp(min=0)
    reflected = waveforms.gather(1, place)
    window = torch.hann_window(FFT_SIZE, periodic=True, device=waveforms.device)
    frames = reflected.unfold(1, FFT_SIZE, HOP)[:, :frame_total] * window
    spectrum = torch.view_as_real(torch.fft.rfft(frames))
    power = spectrum.square().sum(-1)
    if equalizer is not None:
        power = power * equalizer[:, None, :]
    mel = (power @ filterbank).clamp(min=1e-10).log10()
    valid = torch.arange(frame_total, device=waveforms.device)[None, :] < frame_counts[:, None]
    mel = mel.masked_fill(~valid[:, :, None], -10.0)
    floor = mel.amax(dim=(1, 2), keepdim=True) - 8.0
    mel = (torch.maximum(mel, floor) + 4.0) / 4.0
    return mel.masked_fill(~valid[:, :, None], 0.0).transpose(1, 2), frame_counts


def audio_token_counts(frame_counts: Tensor) -> Tensor:
    """Tokens of clips of so many frames: 13 for each 100, and one for each 8 begun of the rest."""
    return CHUNK_TOKENS * (frame_counts // CHUNK_FRAMES) + (frame_counts % CHUNK_FRAMES + 7) // 8


def chunk_positions(width: int, device: torch.device) -> Tensor:
    """(13, width) sinusoids, sines then cosines, that start again in every chunk."""
    half = width // 2
    inverse = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half, device=device).float())
    angles = torch.arange(CHUNK_TOKENS, device=device).float()[:, None] * inverse[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _stem(parameters: Parameters, mel: Tensor, frame_counts: Tensor) -> Tensor:
    """(batch, 128, 100 * chunks) -> (batch, 13 * chunks, audio width); positions added."""
    tower = "thinker.audio_tower."
    batch, _, frame_total = mel.shape
    chunk_count = frame_total // CHUNK_FRAMES
    x = mel.reshape(batch, MEL_BINS, chunk_count, CHUNK_FRAMES).transpose(1, 2)
    x = x.reshape(batch * chunk_count, 1, MEL_BINS, CHUNK_FRAMES).to(
        parameters[f"{tower}conv2d1.weight"].dtype
    )
    x = x.contiguous(memory_format=torch.channels_last)
    # A clip of one chunk keeps its own width: what lies past its edge must stay zero between the convolutions, as
    # the padding of a narrower input would. A longer clip's tail is convolved at full width.
    width = torch.where(frame_counts <= CHUNK_FRAMES, frame_counts, CHUNK_FRAMES)
    for number in (1, 2, 3):
        weight = parameters[f"{tower}conv2d{number}.weight"].contiguous(memory_format=torch.channels_last)
        x = F.gelu(F.conv2d(x, weight, parameters[f"{tower}conv2d{number}.bias"], 2, 1))
        x = x.contiguous(memory_format=torch.channels_last)
        if chunk_count == 1 and number < 3:
            width = (width + 1) // 2
            column = torch.arange(x.shape[3], device=x.device)
            x = x * (column[None, :] < width[:, None])[:, None, None, :].to(x.dtype)
    x = x.permute(0, 3, 1, 2).reshape(batch, chunk_count * CHUNK_TOKENS, -1)
    x = F.linear(x, parameters[f"{tower}conv_out.weight"])
    positions = chunk_positions(x.shape[2], x.device).to(x.dtype)
    return x + positions.repeat(chunk_count, 1)


def encode(parameters: Parameters, size: Size, mel: Tensor, frame_counts: Tensor) -> tuple[Tensor, Tensor]:
    """Audio embeddings of a padded batch.

    mel:     (batch, 128, frames), zeros past each clip's end
    returns: (batch, tokens, decoder width) with junk past each clip's end, and (batch,) token counts
    """
    tower = "thinker.audio_tower."
    mel = F.pad(mel, (0, -mel.shape[2] % CHUNK_FRAMES))
    x = _stem(parameters, mel, frame_counts)
    token_counts = audio_token_counts(frame_counts)
    batch, token_total, audio_width = x.shape
    window = min(token_total, WINDOW_TOKENS)
    padding = -token_total % window
    window_count = (token_total + padding) // window
    starts = torch.arange(window_count, device=x.device) * window
    valid = (
        starts[None, :, None] + torch.arange(window, device=x.device)[None, None, :]
        < token_counts[:, None, None]
    )
    # A window wholly past the end may attend to anything: nothing reads it, and an empty softmax would be NaN.
    valid = valid | (starts[None, :, None] >= token_counts[:, None, None])
    mask = valid.reshape(batch * window_count, 1, 1, window)
    mask = mask.expand(-1, -1, window, -1)

    def split(t: Tensor) -> Tensor:
        t = F.pad(t, (0, 0, 0, padding))
        return t.reshape(batch * window_count, window, size.audio_heads, -1).transpose(1, 2)

    for layer in range(size.audio_layers):
        base = f"{tower}layers.{layer}."
        y = _layer_norm(parameters, f"{base}self_attn_layer_norm", x)
        query, key, value = (split(_linear(parameters, f"{base}self_attn.{part}_proj", y)) for part in "qkv")
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        y = y.transpose(1, 2).reshape(batch, token_total + padding, audio_width)[:, :token_total]
        x = x + _linear(parameters, f"{base}self_attn.out_proj", y)
        y = _layer_norm(parameters, f"{base}final_layer_norm", x)
        x = x + _linear(parameters, f"{base}fc2", F.gelu(_linear(parameters, f"{base}fc1", y)))
    x = _layer_norm(parameters, f"{tower}ln_post", x)
    x = _linear(parameters, f"{tower}proj2", F.gelu(_linear(parameters, f"{tower}proj1", x)))
    return x, token_counts


def _linear(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    return F.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def _layer_norm(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(
        x, (x.shape[-1],), parameters[f"{name}.weight"], parameters[f"{name}.bias"], LAYER_NORM_EPSILON
    )


def _rms_norm(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), parameters[f"{name}.weight"], NORM_EPSILON)


def rotary_table(size: Size, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each positions.shape + (head_dim,), float32; halves repeated (NeoX order)."""
    half = torch.arange(0, size.head_dim, 2, device=positions.device).float() / size.head_dim
    angles = positions[..., None].float() * (size.rope_theta**-half)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """x: (batch, heads, length, head_dim); the tables broadcast against it."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


def embed(parameters: Parameters, token_ids: Tensor) -> Tensor:
    """(batch, length) ids -> (batch, length, width)."""
    return F.embedding(token_ids, parameters["thinker.model.embed_tokens.weight"])


def place_audio(embeddings: Tensor, audio: Tensor, starts: Tensor, token_counts: Tensor) -> Tensor:
    """Put each row's audio embeddings over its placeholders.

    embeddings: (batch, length, width); audio: (batch, tokens, width); starts, token_counts: (batch,)
    """
    place = torch.arange(embeddings.shape[1], device=embeddings.device)[None, :] - starts[:, None]
    inside = (place >= 0) & (place < token_counts[:, None])
    index = place.clamp(0, audio.shape[1] - 1)[:, :, None].expand(-1, -1, audio.shape[2])
    return torch.where(inside[:, :, None], audio.gather(1, index), embeddings)


@dataclass
class KeyValueCache:
    """Keys and values of every layer, (batch, kv heads, capacity, head_dim), for greedy decoding."""

    keys: list[Tensor]
    values: list[Tensor]


def decode(
    parameters: Parameters,
    size: Size,
    x: Tensor,
    cache: KeyValueCache | None = None,
    positions: Tensor | None = None,
    after_layers: list[Tensor] | None = None,
) -> Tensor:
    """Hidden states after the last norm, (batch, length, width); those after each layer are put in `after_layers`.

    Without `positions` a whole right-padded sequence is run causally (and written to the cache from 0). With
    `positions` (batch,) one step is run: x is (batch, 1, width), and each row attends to all before its position.
    """
    batch, length, _ = x.shape
    if positions is None:
        table = torch.arange(length, device=x.device)
    else:
        table = positions[:, None, None]
    cosines, sines = (t.to(x.dtype) for t in rotary_table(size, table))
    for layer in range(size.layers):
        base = f"thinker.model.layers.{layer}."
        y = _rms_norm(parameters, f"{base}input_layernorm", x)
        heads = [
            F.linear(y, parameters[f"{base}self_attn.{part}_proj.weight"]).view(
                batch, length, -1, size.head_dim
            )
            for part in "qkv"
        ]
        query = _rms_norm(parameters, f"{base}self_attn.q_norm", heads[0]).transpose(1, 2)
        key = _rms_norm(parameters, f"{base}self_attn.k_norm", heads[1]).transpose(1, 2)
        query, key, value = (
            rotate(query, cosines, sines),
            rotate(key, cosines, sines),
            heads[2].transpose(1, 2),
        )
        mask = None
        if cache is not None and positions is None:
            cache.keys[layer][:, :, :length], cache.values[layer][:, :, :length] = key, value
        elif cache is not None and positions is not None:
            rows = torch.arange(batch, device=x.device)
            cache.keys[layer][rows, :, positions], cache.values[layer][rows, :, positions] = (
                key[:, :, 0],
                value[:, :, 0],
            )
            key, value = cache.keys[layer], cache.values[layer]
            mask = (torch.arange(key.shape[2], device=x.device)[None, :] <= positions[:, None])[
                :, None, None, :
            ]
        y = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=positions is None, enable_gqa=True
        )
        y = y.transpose(1, 2).reshape(batch, length, -1)
        x = x + F.linear(y, parameters[f"{base}self_attn.o_proj.weight"])
        y = _rms_norm(parameters, f"{base}post_attention_layernorm", x)
        gate = F.silu(F.linear(y, parameters[f"{base}mlp.gate_proj.weight"]))
        up = F.linear(y, parameters[f"{base}mlp.up_proj.weight"])
        x = x + F.linear(gate * up, parameters[f"{base}mlp.down_proj.weight"])
        if after_layers is not None:
            after_layers.append(x)
    return _rms_norm(parameters, "thinker.model.norm", x)


def token_scores(parameters: Parameters, hidden: Tensor) -> Tensor:
    """Scores over the vocabulary; the head is the embedding."""
    return F.linear(hidden, parameters["thinker.model.embed_tokens.weight"])
