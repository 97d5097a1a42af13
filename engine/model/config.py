"""Sizes of a Qwen3-ASR model, read from either published form of config.json.

Nested config files carry dozens of unrelated defaults, which are ignored. Nothing falls back on a class
default: the official configuration classes' own defaults are wrong for every released model, so a missing
size is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEL_FRAMES_PER_SECOND = 100


class ConfigError(ValueError):
    """A size is missing from config.json, or is one that this implementation does not support."""


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """Sizes of the audio encoder.

    chunk_frames: mel frames that one convolution row sees (2 * n_window = 100, one second).
    attention_frames: mel frames inside one attention window (n_window_infer = 800, eight seconds).
    output_dim: width of the projected audio embeddings, equal to the decoder's hidden size.
    """

    d_model: int
    layer_count: int
    head_count: int
    ffn_dim: int
    output_dim: int
    mel_bins: int
    stem_channels: int
    chunk_frames: int
    attention_frames: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.head_count

    @property
    def stem_features(self) -> int:
        """Features of one stem output position: channels times the mel bins left by three halvings."""
        return self.stem_channels * halved(self.mel_bins, times=3)

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens that a full chunk of mel frames becomes (13 for 100 frames)."""
        return halved(self.chunk_frames, times=3)

    @property
    def tokens_per_window(self) -> int:
        """Tokens inside one attention window (104 for eight seconds)."""
        return self.tokens_per_chunk * (self.attention_frames // self.chunk_frames)

    def token_count(self, frame_count: int) -> int:
        """Tokens of a clip of `frame_count` mel frames.

        Source: the feature-length formula of the official encoder, which it equals for all lengths.
        """
        whole, rest = divmod(frame_count, self.chunk_frames)
        return self.tokens_per_chunk * whole + -(-rest // 8)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Sizes of the Qwen3 decoder."""

    hidden_size: int
    layer_count: int
    intermediate_size: int
    head_count: int
    kv_head_count: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    ties_embeddings: bool


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Both halves, and the ids that join them.

    class_count: outputs of a forced aligner's head; None for a speech recognizer, whose head is the
    vocabulary.
    languages: English names from `support_languages`; empty when the file does not say.
    timestamp_token_id: of the token for which a forced aligner gives a class; None when the file does not say.
    milliseconds_per_class: what one class of a forced aligner means.
    """

    audio: AudioConfig
    text: TextConfig
    audio_token_id: int | None
    class_count: int | None
    languages: tuple[str, ...]
    timestamp_token_id: int | None = None
    milliseconds_per_class: float = 80.0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Read the original form (sizes under `thinker_config`) or the flat one of the `-hf` repositories.

        raises: ConfigError naming the missing or unsupported field.
        """
        body = config.get("thinker_config", config)
        if not isinstance(body.get("audio_config"), Mapping) or not isinstance(
            body.get("text_config"), Mapping
        ):
            raise ConfigError("config.json has no audio_config and text_config: not a Qwen3-ASR model")
        text = _text_config(body["text_config"], body)
        audio = _audio_config(body["audio_config"], text.hidden_size)
        class_count = _class_count(config, body)
        if audio.output_dim != text.hidden_size:
            raise ConfigError(
                f"the encoder's output_dim {audio.output_dim} differs from "
                f"the decoder's hidden_size {text.hidden_size}"
            )
        token = body.get("audio_token_id", config.get("audio_token_id"))
        timestamp_token = (
            None if class_count is None else config.get("timestamp_token_id", body.get("timestamp_token_id"))
        )
        step = config.get("timestamp_segment_time", body.get("timestamp_segment_time"))
        return cls(
            audio=audio,
            text=text,
            audio_token_id=None if token is None else int(token),
            class_count=class_count,
            languages=tuple(config.get("support_languages") or body.get("support_languages") or ()),
            timestamp_token_id=None if timestamp_token is None else int(timestamp_token),
            milliseconds_per_class=80.0 if step is None else float(step),
        )


def _class_count(config: Mapping[str, Any], body: Mapping[str, Any]) -> int | None:
    """Classes of a forced aligner's head, None of a recognizer.

    The original form says `qwen3_forced_aligner`; the flat one is known by its architecture, and its files count the
    classes as `num_labels` or by the names they have.
    """
    architectures = " ".join(map(str, config.get("architectures") or ()))
    is_flat_aligner = "TokenClassification" in architectures
    if not is_flat_aligner and "forced_aligner" not in str(body.get("model_type", "")):
        # Recognizers' files carry two labels that mean nothing.
        return int(body["num_labels"]) if int(body.get("num_labels") or 0) > 2 else None
    count = body.get("classify_num") or body.get("num_labels")
    if count is None and is_flat_aligner:
        count = len(body.get("id2label") or ())
    if not count:
        raise ConfigError("config.json: the forced aligner has no classify_num or num_labels")
    return int(count)


def halved(size: int, *, times: int) -> int:
    """Length after that many convolutions of kernel 3, stride 2, padding 1."""
    for _ in range(times):
        size = (size + 1) // 2
    return size


def _pick(section: Mapping[str, Any], where: str, *names: str) -> Any:
    for name in names:
        if section.get(name) is not None:
            return section[name]
    raise ConfigError(f"config.json: {where} has no {' or '.join(names)}")


def _audio_config(section: Mapping[str, Any], hidden_size: int) -> AudioConfig:
    where = "audio_config"
    activation = section.get("activation_function", section.get("hidden_act", "gelu"))
    if activation != "gelu":
        raise ConfigError(f"config.json: audio activation {activation!r} is not supported, only 'gelu'")
    if section.get("scale_embedding"):
        raise ConfigError("config.json: scale_embedding is not supported")
    config = AudioConfig(
        d_model=int(_pick(section, where, "d_model", "hidden_size")),
        layer_count=int(_pick(section, where, "encoder_layers", "num_hidden_layers")),
        head_count=int(_pick(section, where, "encoder_attention_heads", "num_attention_heads")),
        ffn_dim=int(_pick(section, where, "encoder_ffn_dim", "intermediate_size")),
        output_dim=int(section.get("output_dim") or hidden_size),
        mel_bins=int(_pick(section, where, "num_mel_bins")),
        stem_channels=int(_pick(section, where, "downsample_hidden_size")),
        chunk_frames=2 * int(_pick(section, where, "n_window")),
        attention_frames=int(_pick(section, where, "n_window_infer")),
    )
    if config.d_model % config.head_count or config.d_model % 2:
        raise ConfigError(
            f"config.json: d_model {config.d_model} does not divide into {config.head_count} heads"
        )
    return config


def _text_config(section: Mapping[str, Any], body: Mapping[str, Any]) -> TextConfig:
    where = "text_config"
    if section.get("hidden_act", "silu") != "silu" or section.get("attention_bias"):
        raise ConfigError("config.json: only hidden_act 'silu' without attention_bias is supported")
    rope = section.get("rope_parameters") or {}
    theta = section.get("rope_theta", rope.get("rope_theta"))
    if theta is None:
        raise ConfigError(f"config.json: {where} has no rope_theta")
    ties = section.get("tie_word_embeddings", body.get("tie_word_embeddings"))
    return TextConfig(
        hidden_size=int(_pick(section, where, "hidden_size")),
        layer_count=int(_pick(section, where, "num_hidden_layers")),
        intermediate_size=int(_pick(section, where, "intermediate_size")),
        head_count=int(_pick(section, where, "num_attention_heads")),
        kv_head_count=int(_pick(section, where, "num_key_value_heads")),
        head_dim=int(_pick(section, where, "head_dim")),
        vocab_size=int(_pick(section, where, "vocab_size")),
        rms_norm_eps=float(_pick(section, where, "rms_norm_eps")),
        rope_theta=float(theta),
        max_positions=int(_pick(section, where, "max_position_embeddings")),
        ties_embeddings=True if ties is None else bool(ties),
    )
