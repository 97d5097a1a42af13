"""The published models at their real sizes: configuration, names, shapes and counts, without a single weight.

Whole checkpoints are stood in for by sparse files: a true safetensors header over a hole as long as the weights
would be. The loader reads names and shapes from them and nothing else.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from scribewire.engine.checkpoint.layouts import (
    QUANTIZED_BITS,
    canonical_name,
    expected_shapes,
    infer_quantization,
    is_convolution_kernel,
    kernel_needs_transposing,
)
from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.model.config import AudioConfig, ConfigError, ModelConfig, TextConfig
from scribewire.engine.model.projection import QuantizedTensor
from scribewire.engine.protocol.errors import CheckpointMismatch
from tests.fakes.random_model import LAYOUTS, Layout, Sizes, make_config, plan_tensors, published_name

_SHARED: dict[str, Any] = {
    "downsample_hidden_size": 480,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "n_window_infer": 800,
    "rope_theta": 1000000.0,
    "mrope_section": (24, 20, 20),
}
SMALL = Sizes(
    "0.6B",
    d_model=896,
    encoder_layers=18,
    encoder_attention_heads=14,
    encoder_ffn_dim=3584,
    hidden_size=1024,
    intermediate_size=3072,
    vocab_size=151936,
    **_SHARED,
)
LARGE = Sizes(
    "1.7B",
    d_model=1024,
    encoder_layers=24,
    encoder_attention_heads=16,
    encoder_ffn_dim=4096,
    hidden_size=2048,
    intermediate_size=6144,
    vocab_size=151936,
    **_SHARED,
)
ALIGNER = Sizes(
    "aligner",
    d_model=1024,
    encoder_layers=24,
    encoder_attention_heads=16,
    encoder_ffn_dim=4096,
    hidden_size=1024,
    intermediate_size=3072,
    vocab_size=152064,
    tied=False,
    classify_num=5000,
    **_SHARED,
)
MODELS = [pytest.param(sizes, id=sizes.name) for sizes in (SMALL, LARGE)]
ALL = [*MODELS, pytest.param(ALIGNER, id="aligner")]

Shapes = dict[str, tuple[int, ...]]


def published_config(sizes: Sizes, layout: Layout) -> dict[str, Any]:
    """config.json as published: true token ids, and some of the unrelated defaults that nested files carry."""
    config = make_config(sizes, layout)
    body = config.get("thinker_config", config)
    body["audio_token_id"] = 151676
    for section in (body, body["audio_config"], body["text_config"]):
        section |= {"id2label": {"0": "LABEL_0"}, "top_k": 50, "dtype": None, "chunk_size_feed_forward": 0}
    config["support_languages"] = ["Chinese", "English", "Cantonese"]
    if sizes is ALIGNER:
        config["timestamp_token_id"] = 151705
        config["support_languages"] = ["Chinese", "Cantonese", "English"]
    return config


def published_shapes(sizes: Sizes, layout: Layout) -> Shapes:
    """Every stored tensor of one published layout, from the tensor tables."""
    shapes = {tensor.name: tensor.shape for tensor in plan_tensors(sizes)}
    if layout == "mlx":
        shapes = {n: (s[0], s[2], s[3], s[1]) if len(s) == 4 else s for n, s in shapes.items()}
    elif sizes.tied:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    is_aligner = sizes is ALIGNER
    return {published_name(name, layout, is_aligner=is_aligner): shape for name, shape in shapes.items()}


def write_hollow(folder: Path, sizes: Sizes, layout: Layout, shapes: Shapes, shard_count: int = 1) -> Path:
    """A checkpoint folder whose weights are holes in sparse files; packed matrices are u32, all else bfloat16."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(published_config(sizes, layout)))
    names = list(shapes)
    weight_map: dict[str, str] = {}
    for index in range(shard_count):
        file_name = f"model-{index + 1:05d}-of-{shard_count:05d}.safetensors"
        header: dict[str, Any] = {}
        offset = 0
        for name in names[index::shard_count]:
            is_packed = name.endswith(".weight") and name.replace(".weight", ".scales") in shapes
            stop = offset + math.prod(shapes[name]) * (4 if is_packed else 2)
            header[name] = {
                "dtype": "U32" if is_packed else "BF16",
                "shape": shapes[name],
                "data_offsets": [offset, stop],
            }
            offset = stop
            weight_map[name] = file_name
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        with (folder / file_name).open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            file.truncate(8 + len(encoded) + offset)
    if shard_count > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def quantized_shapes(shapes: Shapes, bits: int, group_size: int, *, with_audio: bool) -> Shapes:
    """The same checkpoint with its Linear layers and embeddings packed, as MLX packs them."""
    packed: Shapes = {}
    for name, shape in shapes.items():
        is_text = name.startswith(("model.", "lm_head.")) and len(shape) == 2
        is_audio = with_audio and name.startswith("audio_tower.") and len(shape) == 2
        if not (is_text or is_audio):
            packed[name] = shape
            continue
        module = name.removesuffix(".weight")
        packed[name] = (shape[0], shape[1] * bits // 32)
        packed[f"{module}.scales"] = packed[f"{module}.biases"] = (shape[0], shape[1] // group_size)
    return packed


# ---- configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_of_the_small_model_are_read(layout: Layout) -> None:
    config = ModelConfig.from_dict(published_config(SMALL, layout))
    assert config.audio == AudioConfig(
        d_model=896,
        layer_count=18,
        head_count=14,
        ffn_dim=3584,
        output_dim=1024,
        mel_bins=128,
        stem_channels=480,
        chunk_frames=100,
        attention_frames=800,
    )
    assert config.text == TextConfig(
        hidden_size=1024,
        layer_count=28,
        intermediate_size=3072,
        head_count=16,
        kv_head_count=8,
        head_dim=128,
        vocab_size=151936,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        max_positions=65536,
        ties_embeddings=True,
    )
    assert config.audio_token_id == 151676
    assert config.class_count is None
    assert config.languages == ("Chinese", "English", "Cantonese")


@pytest.mark.parametrize("sizes", MODELS)
def test_both_forms_of_the_configuration_say_the_same(sizes: Sizes) -> None:
    original = ModelConfig.from_dict(published_config(sizes, "thinker"))
    assert ModelConfig.from_dict(published_config(sizes, "hf")) == original
    renamed = published_config(sizes, "hf")
    audio = renamed["audio_config"]
    # Newer files of the native layout use transformers' general names.
    audio["num_attention_heads"] = audio.pop("encoder_attention_heads")
    audio["num_hidden_layers"] = audio.pop("encoder_layers")
    audio["intermediate_size"] = audio.pop("encoder_ffn_dim")
    audio["hidden_size"] = audio.pop("d_model")
    assert ModelConfig.from_dict(renamed) == original


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_aligners_head_mark_and_step_are_read(layout: Layout) -> None:
    config = ModelConfig.from_dict(published_config(ALIGNER, layout))
    assert (config.class_count, config.timestamp_token_id, config.milliseconds_per_class) == (
        5000,
        151705,
        80,
    )
    assert config.audio_token_id == 151676
    assert config.text.vocab_size == 152064
    assert not config.text.ties_embeddings
    assert config.languages == ("Chinese", "Cantonese", "English")


def test_the_native_aligner_may_count_its_classes_by_their_names() -> None:
    """transformers writes `id2label` in place of `num_labels`."""
    config = published_config(ALIGNER, "hf")
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(config.pop("num_labels"))}
    assert ModelConfig.from_dict(config).class_count == 5000
    recognizer = published_config(SMALL, "hf") | {
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "num_labels": 2,
    }
    assert ModelConfig.from_dict(recognizer).class_count is None


def test_an_aligner_without_a_class_count_is_refused() -> None:
    config = published_config(ALIGNER, "thinker")
    del config["thinker_config"]["classify_num"]
    with pytest.raises(ConfigError, match="classify_num"):
        ModelConfig.from_dict(config)


@pytest.mark.parametrize("sizes", MODELS)
def test_a_second_is_13_tokens_and_a_window_104(sizes: Sizes) -> None:
    audio = ModelConfig.from_dict(published_config(sizes, "thinker")).audio
    assert audio.head_dim == 64
    assert (audio.tokens_per_chunk, audio.tokens_per_window, audio.stem_features) == (13, 104, 7680)
    for frames in range(1, 3001):
        rest = (frames % 100 - 1) // 2 + 1
        assert audio.token_count(frames) == ((rest - 1) // 2 + 1 - 1) // 2 + 1 + frames // 100 * 13


# ---- names, shapes, counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "parameter_count", "tensor_count"),
    [
        pytest.param(SMALL, 782_426_112, 612, id="0.6B"),
        pytest.param(LARGE, 2_038_052_480, 708, id="1.7B"),
        pytest.param(ALIGNER, 917_728_896, 708, id="aligner"),
    ],
)
def test_parameters_and_tensors_are_as_many_as_published(
    sizes: Sizes, parameter_count: int, tensor_count: int
) -> None:
    shapes = expected_shapes(ModelConfig.from_dict(published_config(sizes, "thinker")))
    assert sum(math.prod(shape) for shape in shapes.values()) == parameter_count
    stored = published_shapes(sizes, "thinker")
    assert len(stored) == tensor_count
    assert len(shapes) == tensor_count - sizes.tied


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", ALL)
def test_every_published_tensor_has_its_place(sizes: Sizes, layout: Layout) -> None:
    wanted = expected_shapes(ModelConfig.from_dict(published_config(sizes, layout)))
    found: Shapes = {}
    for name, shape in published_shapes(sizes, layout).items():
        ours = canonical_name(name)
        assert ours not in found
        is_kernel = is_convolution_kernel(ours)
        assert is_kernel == (len(shape) == 4)
        assert kernel_needs_transposing(shape) == (is_kernel and layout != "mlx")
        found[ours] = (shape[0], shape[2], shape[3], shape[1]) if kernel_needs_transposing(shape) else shape
    if sizes.tied and layout != "mlx":
        assert found.pop("lm_head.weight") == wanted["model.embed_tokens.weight"]
    assert found == wanted


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("thinker.audio_tower.conv_out.weight", "audio_tower.conv_out.weight"),
        ("thinker.model.layers.27.self_attn.q_norm.weight", "model.layers.27.self_attn.q_norm.weight"),
        ("thinker.lm_head.weight", "lm_head.weight"),
        ("model.audio_tower.layers.0.fc1.bias", "audio_tower.layers.0.fc1.bias"),
        ("model.multi_modal_projector.linear_1.weight", "audio_tower.proj1.weight"),
        ("model.multi_modal_projector.linear_2.bias", "audio_tower.proj2.bias"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("model.language_model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("score.weight", "lm_head.weight"),
        ("audio_tower.proj1.scales", "audio_tower.proj1.scales"),
        ("model.layers.3.mlp.down_proj.biases", "model.layers.3.mlp.down_proj.biases"),
    ],
)
def test_names_of_the_tables_are_translated(published: str, ours: str) -> None:
    assert canonical_name(published) == ours
    assert canonical_name(ours) == ours


# ---- the loader at real size ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", ALL)
def test_the_loader_takes_a_checkpoint_of_real_size(tmp_path: Path, sizes: Sizes, layout: Layout) -> None:
    shard_count = 2 if sizes is LARGE else 1
    folder = write_hollow(tmp_path, sizes, layout, published_shapes(sizes, layout), shard_count)
    checkpoint = read_checkpoint(folder)
    wanted = expected_shapes(checkpoint.config)
    assert {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()} == wanted
    counts = {SMALL.name: 782_426_112, LARGE.name: 2_038_052_480, ALIGNER.name: 917_728_896}
    assert checkpoint.parameter_count == counts[sizes.name]


@pytest.mark.parametrize("with_audio", [False, True], ids=["audio-float", "audio-packed"])
@pytest.mark.parametrize("bits", [4, 5, 6, 8])
@pytest.mark.parametrize("sizes", ALL)
def test_the_loader_takes_a_packed_checkpoint_of_real_size(
    tmp_path: Path, sizes: Sizes, bits: int, with_audio: bool
) -> None:
    """Widths come from the shapes: config.json says nothing of them here."""
    shapes = quantized_shapes(published_shapes(sizes, "mlx"), bits, 64, with_audio=with_audio)
    tensors = read_checkpoint(write_hollow(tmp_path, sizes, "mlx", shapes)).tensors
    packed = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)}
    assert all((tensor.bits, tensor.group_size) == (bits, 64) for tensor in packed.values())
    text_count = 1 + 7 * sizes.num_hidden_layers + (sizes is ALIGNER)
    audio_count = 6 * sizes.encoder_layers + 3
    assert len(packed) == text_count + audio_count * with_audio


def test_one_wrong_shape_at_real_size_is_named(tmp_path: Path) -> None:
    shapes = published_shapes(SMALL, "thinker")
    shapes["thinker.audio_tower.proj2.weight"] = (1023, 896)
    with pytest.raises(CheckpointMismatch, match=r"audio_tower\.proj2\.weight.*1023, 896.*1024, 896"):
        read_checkpoint(write_hollow(tmp_path, SMALL, "thinker", shapes))


def test_one_missing_and_one_left_over_tensor_are_named(tmp_path: Path) -> None:
    shapes = published_shapes(SMALL, "hf")
    removed = shapes.pop("model.language_model.layers.27.mlp.up_proj.weight")
    with pytest.raises(CheckpointMismatch, match=r"model\.layers\.27\.mlp\.up_proj\.weight.*3072, 1024"):
        read_checkpoint(write_hollow(tmp_path / "missing", SMALL, "hf", shapes))
    shapes["model.language_model.layers.27.mlp.up_proj.weight"] = removed
    shapes["model.language_model.layers.28.mlp.up_proj.weight"] = removed
    with pytest.raises(CheckpointMismatch, match=r"model\.layers\.28\.mlp\.up_proj\.weight"):
        read_checkpoint(write_hollow(tmp_path / "left-over", SMALL, "hf", shapes))


# ---- packed matrices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_features", [896, 1024, 2048, 3072, 3584, 6144, 7680])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_width_and_group_follow_from_the_shapes_mlx_makes(
    bits: int, group_size: int, in_features: int
) -> None:
    packed, scales, biases = mx.quantize(mx.zeros((8, in_features)), group_size=group_size, bits=bits)
    assert scales.shape == biases.shape
    found = infer_quantization(tuple(packed.shape), tuple(scales.shape), in_features, None)
    assert found == (bits, group_size)


def test_every_width_that_mlx_packs_is_known() -> None:
    assert set(QUANTIZED_BITS) == {2, 3, 4, 5, 6, 8}


def test_the_published_packed_conv_out_is_read_as_8_bits() -> None:
    assert infer_quantization((1024, 1920), (1024, 120), 7680, None) == (8, 64)


@pytest.mark.parametrize(
    ("packed", "scales"),
    [
        ((8, 224), (8, 16)),  # 7 bits
        ((8, 130), (8, 16)),  # no whole number of bits
        ((8, 128), (8, 15)),  # no whole number of inputs in a group
        ((8, 128), (8, 4)),  # groups of 256
        ((8, 128), (7, 16)),  # other rows
        ((8, 128), (8, 0)),
    ],
)
def test_shapes_that_are_no_packed_matrix_are_refused(
    packed: tuple[int, int], scales: tuple[int, int]
) -> None:
    with pytest.raises(ValueError):
        infer_quantization(packed, scales, 1024, None)
