"""A checkpoint that cannot work is one line when it is loaded, not a traceback, nor an error with every recording."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from scribewire.engine.audio import mel
from scribewire.engine.checkpoint.load import build_model, read_checkpoint
from scribewire.engine.cli import main
from scribewire.engine.demo import sample_recordings
from scribewire.engine.model import config as model_config
from scribewire.engine.model.projection import Placement
from scribewire.engine.processes.console import Console
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import CheckpointMismatch, ModelError, ModelIncomplete
from scribewire.engine.resident.model import ResidentModel
from tests.fakes.loading import cpu_profile
from tests.fakes.quantized import Packing, write_quantized
from tests.fakes.random_model import TRUE_WINDOWS, write_checkpoint
from tests.fakes.tiny_model import write_tiny_model, write_tokenizer

SIZES = replace(TRUE_WINDOWS, name="broken", encoder_layers=1, num_hidden_layers=1, vocab_size=320)

Config = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model", sizes=SIZES)


def why_not(folder: Path) -> str:
    """The error's one line."""
    with pytest.raises(ModelError) as caught:
        ResidentModel(EngineConfig(model=str(folder)), cpu_profile())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(folder: Path, changes: Callable[[Config], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    changes(config)
    path.write_text(json.dumps(config))


def test_the_model_that_the_others_are_made_of_loads(folder: Path) -> None:
    assert ResidentModel(EngineConfig(model=str(folder)), cpu_profile()).info.weight_bits == 32


# ---- the configuration ---------------------------------------------------------------------------------------


def in_section(section: str, **fields: Any) -> Callable[[Config], object]:
    return lambda config: config["thinker_config"][section].update(fields)


BROKEN: dict[str, tuple[Callable[[Config], object], str]] = {
    "no thinker": (lambda c: c.update(thinker_config=None), "not a Qwen3-ASR model"),
    "thinker is a word": (lambda c: c.update(thinker_config="yes"), "not a Qwen3-ASR model"),
    "no audio part": (lambda c: c["thinker_config"].update(audio_config=None), "not a Qwen3-ASR model"),
    "word for a number": (in_section("text_config", hidden_size="wide"), "hidden_size 'wide'"),
    "list for a number": (in_section("audio_config", encoder_layers=[2]), r"encoder_layers \[2\]"),
    "truth for a number": (in_section("text_config", num_hidden_layers=True), "num_hidden_layers True"),
    "half a layer": (in_section("text_config", num_hidden_layers=1.5), "num_hidden_layers 1.5"),
    "no heads": (in_section("audio_config", encoder_attention_heads=0), "encoder_attention_heads 0"),
    "no heads of text": (in_section("text_config", num_attention_heads=0), "num_attention_heads 0"),
    "heads that no group divides": (in_section("text_config", num_key_value_heads=3), "divide into 3"),
    "no heads for keys": (in_section("text_config", num_key_value_heads=0), "num_key_value_heads 0"),
    "endless layers": (in_section("text_config", num_hidden_layers=10**12), "num_hidden_layers 10000"),
    "negative width": (in_section("audio_config", d_model=-128), "d_model -128"),
    "no window": (in_section("audio_config", n_window=0), "n_window 0"),
    "no window of attention": (in_section("audio_config", n_window_infer=0), "n_window_infer 0"),
    "window under a chunk": (in_section("audio_config", n_window_infer=99), "n_window_infer 99"),
    "endless window": (in_section("audio_config", n_window_infer=float("inf")), "n_window_infer inf"),
    "window of no number": (in_section("audio_config", n_window=float("nan")), "n_window nan"),
    "other mel": (in_section("audio_config", num_mel_bins=80), "num_mel_bins 80"),
    "no epsilon": (in_section("text_config", rms_norm_eps="1e-6"), "rms_norm_eps '1e-6'"),
    "endless theta": (in_section("text_config", rope_theta=float("inf")), "rope_theta inf"),
    "no room": (in_section("text_config", max_position_embeddings=16), "max_position_embeddings 16"),
    "tied perhaps": (in_section("text_config", tie_word_embeddings="false"), "tie_word_embeddings"),
    "no audio token": (lambda c: c["thinker_config"].update(audio_token_id=None), "no audio_token_id"),
    "audio token beyond": (lambda c: c["thinker_config"].update(audio_token_id=320), "audio_token_id 320"),
    "other audio token": (
        lambda c: c["thinker_config"].update(audio_token_id=7),
        r"<\|audio_pad\|> is 295 .* audio_token_id 7",
    ),
    "languages in a word": (lambda c: c.update(support_languages="English"), "support_languages"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_configuration_is_named_by_its_field(folder: Path, what: str) -> None:
    changes, words = BROKEN[what]
    change(folder, changes)
    line = why_not(folder)
    assert re.search(words, line), line
    assert "fetch the model again" not in line


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", "null", "\x00"])
def test_a_configuration_that_is_no_json_object_is_one_line(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in why_not(folder)


def test_the_command_says_it_in_one_line_too(folder: Path) -> None:
    change(folder, lambda config: config.update(thinker_config=None))
    out, err = io.StringIO(), io.StringIO()
    assert (
        main(
            ["transcribe", "--model", str(folder), str(sample_recordings()[0].path)],
            console=Console(io.BytesIO(), out, err),
        )
        == 1
    )
    assert (out.getvalue(), err.getvalue().count("\n")) == ("", 1)
    assert "not a Qwen3-ASR model" in err.getvalue()


def test_frames_have_the_bins_that_a_configuration_must_have() -> None:
    assert model_config.MEL_BINS == mel.MEL_BINS


# ---- quantization --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "declared", "words"),
    [
        (Packing(4, 32), "mxfp4", "mode mxfp4 has 4 bits in groups of 32, 8-bit scales"),
        (Packing(8, 64), "nvfp4", "declares 8 bits|mode nvfp4"),
        (Packing(4, 64), "affine4", "mode 'affine4'; known are affine, mxfp4, mxfp8, nvfp4"),
        (Packing(4, 64), 4, "mode 4; known"),
        (Packing(4, 32, "mxfp4"), "nvfp4", "mode nvfp4 has 4 bits in groups of 16"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_quantization_mode_is_named_with_the_matrix(
    tmp_path: Path, stored: Packing, declared: object, words: str
) -> None:
    write_quantized(tmp_path, SIZES, lambda module: stored)
    change(tmp_path, lambda config: config.update(quantization={**stored.declared, "mode": declared}))
    with pytest.raises(CheckpointMismatch, match=words) as caught:
        read_checkpoint(tmp_path)
    assert ".weight" in str(caught.value)


@pytest.mark.parametrize(
    "stored", [Packing(4, 32, "mxfp4"), Packing(8, 32, "mxfp8"), Packing(4, 16, "nvfp4")]
)
def test_a_floating_point_mode_is_known_by_its_scales_where_none_is_declared(
    tmp_path: Path, stored: Packing
) -> None:
    write_quantized(tmp_path, SIZES, lambda module: stored)
    change(tmp_path, lambda config: config.pop("quantization"))
    tensor = read_checkpoint(tmp_path).tensors["model.layers.0.mlp.up_proj.weight"]
    assert not isinstance(tensor, mx.array)
    assert tensor.mode == stored.mode


# ---- the weights ---------------------------------------------------------------------------------------------


def rewrite(folder: Path, name: str, value: mx.array) -> None:
    path = str(folder / "model.safetensors")
    tensors = mx.load(path)
    assert isinstance(tensors, dict)
    mx.eval(list(tensors.values()))
    assert name in tensors
    mx.save_safetensors(path, {**tensors, name: value})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.up_proj.weight", (96, 64)),
        ("model.embed_tokens.weight", (320, 64)),
        ("model.norm.weight", (64,)),
        ("audio_tower.layers.0.fc1.bias", (160,)),
        ("audio_tower.conv2d1.bias", (8,)),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(
    folder: Path, name: str, shape: tuple[int, ...], value: float
) -> None:
    count = mx.arange(mx.zeros(shape).size).reshape(shape)
    rewrite(folder, name, mx.where(count == 5, value, 0.5))
    assert f"{name} holds NaN or infinity" in why_not(folder)


@pytest.mark.parametrize("dequantizes", [True, False])
def test_scales_that_are_not_finite_are_named_by_their_matrix(tmp_path: Path, dequantizes: bool) -> None:
    write_quantized(tmp_path, SIZES, lambda module: Packing(8, 32))
    scales = mx.full((96, 2), float("nan")).astype(mx.bfloat16)
    rewrite(tmp_path, "model.layers.0.mlp.up_proj.scales", scales)
    placement = Placement(mx.float32, dequantizes)
    with pytest.raises(CheckpointMismatch, match=r"layers\.0\.mlp\.up_proj\.weight holds NaN"):
        build_model(read_checkpoint(tmp_path), placement)


@pytest.mark.parametrize(
    ("packing", "scale"),
    [(Packing(4, 32, "mxfp4"), 255), (Packing(8, 32, "mxfp8"), 255), (Packing(4, 16, "nvfp4"), 127)],
    ids=lambda value: getattr(value, "mode", str(value)),
)
@pytest.mark.parametrize("dequantizes", [True, False])
def test_small_scales_that_are_no_number_are_named_by_their_matrix(
    tmp_path: Path, packing: Packing, scale: int, dequantizes: bool
) -> None:
    write_quantized(tmp_path, SIZES, lambda module: packing)
    placement = Placement(mx.float32, dequantizes)
    build_model(read_checkpoint(tmp_path), placement)
    columns = 64 // packing.group_size
    scales = mx.where(mx.arange(96 * columns).reshape(96, columns) == 7, scale, 120).astype(mx.uint8)
    rewrite(tmp_path, "model.layers.0.mlp.up_proj.scales", scales)
    with pytest.raises(CheckpointMismatch, match=r"layers\.0\.mlp\.up_proj\.weight holds NaN"):
        build_model(read_checkpoint(tmp_path), placement)


def test_weights_that_float16_cannot_hold_are_refused_in_float16_alone(folder: Path) -> None:
    rewrite(folder, "model.layers.0.mlp.up_proj.weight", mx.full((96, 64), 1e5))
    build_model(read_checkpoint(folder), cpu_profile().placement)
    with pytest.raises(CheckpointMismatch, match="too large for float16"):
        build_model(read_checkpoint(folder), cpu_profile(mx.float16).placement)


# ---- the files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "sub/inside.safetensors", "weights.bin", "{absolute}"]
)
def test_an_index_leads_to_no_file_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "model", SIZES, "mlx", shard_count=2)
    write_tokenizer(folder)
    outside = tmp_path / "outside.safetensors"
    shard = folder / "model-00001-of-00002.safetensors"
    shard.rename(outside)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, name.replace("{absolute}", str(outside))))
    line = why_not(folder)
    assert "no safetensors file of this folder" in line
    assert "fetch the model again" not in line


def test_data_that_are_not_as_long_as_their_shape_are_a_damaged_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    assert content.count(b'"shape": [320, 64]') == 1
    path.write_bytes(content.replace(b'"shape": [320, 64]', b'"shape": [320, 65]'))
    with pytest.raises(ModelIncomplete, match="header is damaged; fetch the model again"):
        read_checkpoint(folder)


def test_a_type_that_mlx_does_not_read_is_no_matter_of_fetching_again(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype": "F32"', b'"dtype": "X32"'))
    line = why_not(folder)
    assert "cannot be read" in line
    assert "fetch the model again" not in line
