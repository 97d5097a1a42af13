"""Sizes of a Qwen3-ASR model, read from either published form of config.json.

Nested config files carry dozens of unrelated defaults, which are ignored. Nothing falls back on a class
default: the official configuration classes' own defaults are wrong for every released model, so a missing
size is an error, and so is one that no network could be built of: what is read here is computed with unasked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEL_BINS = 128
"""Of the log-mel frames that this engine makes."""

_MOST = 1 << 20
_MOST_LAYERS = 1000
_MOST_WINDOW_FRAMES = 30_000
"""Five minutes, the longest audio that any published model takes at once."""
_LEAST_POSITIONS = 512
"""A prompt with 30 s of audio, 406 tokens, and room for an answer."""


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
    audio_token_id: int
    class_count: int | None
    languages: tuple[str, ...]
    timestamp_token_id: int | None = None
    milliseconds_per_class: float = 80.0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Read the original form (sizes under `thinker_config`) or the flat one of the `-hf` repositories.

        raises: ConfigError naming the missing or unsupported field.
        """
        body = config.get("thinker_config")
        body = config if body is None else body
        if not isinstance(body, Mapping) or not all(
            isinstance(body.get(part), Mapping) for part in ("audio_config", "text_config")
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
        # Of these some files have one at the top and others in the body.
        joined = {**config, **_given(body)}
        where, last_id = "the file", text.vocab_size - 1
        timestamp_token = None
        if class_count is not None and joined.get("timestamp_token_id") is not None:
            timestamp_token = _whole(joined, where, "timestamp_token_id", least=0, most=last_id)
        step = joined.get("timestamp_segment_time")
        return cls(
            audio=audio,
            text=text,
            audio_token_id=_whole(joined, where, "audio_token_id", least=0, most=last_id),
            class_count=class_count,
            languages=_languages(joined.get("support_languages") or ()),
            timestamp_token_id=timestamp_token,
            milliseconds_per_class=80.0 if step is None else _number(joined, where, "timestamp_segment_time"),
        )


def _class_count(config: Mapping[str, Any], body: Mapping[str, Any]) -> int | None:
    """Classes of a forced aligner's head, None of a recognizer.

    The original form says `qwen3_forced_aligner`; the flat one is known by its architecture, and its files count the
    classes as `num_labels` or by the names they have.
    """
    architectures = config.get("architectures")
    is_flat_aligner = "TokenClassification" in str(architectures)
    if not is_flat_aligner and "forced_aligner" not in str(body.get("model_type", "")):
        # Recognizers' files carry two labels that mean nothing.
        labels = body.get("num_labels") or 0
        return None if labels in (0, 1, 2) else _whole(body, "the file", "num_labels")
    names = body.get("id2label")
    if is_flat_aligner and isinstance(names, Mapping) and names:
        body = {"num_labels": len(names), **_given(body)}
    return _whole(body, "the forced aligner", "classify_num", "num_labels")


def _languages(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ConfigError("config.json: support_languages is no list of names")
    return tuple(names)


def halved(size: int, *, times: int) -> int:
    """Length after that many convolutions of kernel 3, stride 2, padding 1."""
    for _ in range(times):
        size = (size + 1) // 2
    return size


def _whole(section: Mapping[str, Any], where: str, *names: str, least: int = 1, most: int = _MOST) -> int:
    """The first of these fields that the section has, a whole number within these bounds."""
    name, value = _pick(section, where, *names)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or value != value or not least <= value <= most or value != int(value):
        raise ConfigError(
            f"config.json: {where} has {name} {_shown(value)}, not a whole number from {least} to {most}"
        )
    return int(value)


def _number(section: Mapping[str, Any], where: str, name: str, *, most: float = 1e9) -> float:
    """A field that is a number above zero."""
    _, value = _pick(section, where, name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.0 < value <= most:
        raise ConfigError(
            f"config.json: {where} has {name} {_shown(value)}, not a number above 0, at most {most:g}"
        )
    return float(value)


def _pick(section: Mapping[str, Any], where: str, *names: str) -> tuple[str, Any]:
    for name in names:
        if section.get(name) is not None:
            return name, section[name]
    raise ConfigError(f"config.json: {where} has no {' or '.join(names)}")


def _shown(value: Any) -> str:
    return repr(value)[:40]


def _audio_config(section: Mapping[str, Any], hidden_size: int) -> AudioConfig:
    where = "audio_config"
    activation = section.get("activation_function", section.get("hidden_act", "gelu"))
    if activation != "gelu":
        raise ConfigError(f"config.json: audio activation {_shown(activation)} is not supported, only 'gelu'")
    if section.get("scale_embedding"):
        raise ConfigError("config.json: scale_embedding is not supported")
    chunk_frames = 2 * _whole(section, where, "n_window", most=_MOST_WINDOW_FRAMES // 2)
    config = AudioConfig(
        d_model=_whole(section, where, "d_model", "hidden_size", least=4),
        layer_count=_whole(section, where, "encoder_layers", "num_hidden_layers", most=_MOST_LAYERS),
        head_count=_whole(section, where, "encoder_attention_heads", "num_attention_heads"),
        ffn_dim=_whole(section, where, "encoder_ffn_dim", "intermediate_size"),
        output_dim=_whole({"output_dim": hidden_size, **_given(section)}, where, "output_dim"),
        mel_bins=_whole(section, where, "num_mel_bins", least=MEL_BINS, most=MEL_BINS),
        stem_channels=_whole(section, where, "downsample_hidden_size"),
        chunk_frames=chunk_frames,
        attention_frames=_whole(
            section, where, "n_window_infer", least=chunk_frames, most=_MOST_WINDOW_FRAMES
        ),
    )
    if config.d_model % config.head_count or config.d_model % 2:
        raise ConfigError(
            f"config.json: d_model {config.d_model} does not divide into {config.head_count} heads"
        )
    return config


def _given(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section without its nulls, which stand for what was left out."""
    return {name: value for name, value in section.items() if value is not None}


def _text_config(section: Mapping[str, Any], body: Mapping[str, Any]) -> TextConfig:
    where = "text_config"
    if section.get("hidden_act", "silu") != "silu" or section.get("attention_bias"):
        raise ConfigError("config.json: only hidden_act 'silu' without attention_bias is supported")
    rope = section.get("rope_parameters")
    rope = _given(rope) if isinstance(rope, Mapping) else {}
    ties = {"tie_word_embeddings": True, **_given(body), **_given(section)}["tie_word_embeddings"]
    if not isinstance(ties, bool):
        raise ConfigError(f"config.json: tie_word_embeddings is {_shown(ties)}, not true or false")
    config = TextConfig(
        hidden_size=_whole(section, where, "hidden_size"),
        layer_count=_whole(section, where, "num_hidden_layers", most=_MOST_LAYERS),
        intermediate_size=_whole(section, where, "intermediate_size"),
        head_count=_whole(section, where, "num_attention_heads"),
        kv_head_count=_whole(section, where, "num_key_value_heads"),
        head_dim=_whole(section, where, "head_dim", least=2),
        vocab_size=_whole(section, where, "vocab_size", most=1 << 24),
        rms_norm_eps=_number(section, where, "rms_norm_eps", most=1.0),
        rope_theta=_number({**rope, **_given(section)}, where, "rope_theta"),
        max_positions=_whole(section, where, "max_position_embeddings", least=_LEAST_POSITIONS, most=1 << 24),
        ties_embeddings=ties,
    )
    if config.head_count % config.kv_head_count or config.head_dim % 2:
        raise ConfigError(
            f"config.json: {config.head_count} heads of {config.head_dim} do not divide into "
            f"{config.kv_head_count} for keys and values, or into halves"
        )
    return config
