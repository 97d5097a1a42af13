"""The loader takes every published form and refuses everything else by name."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.checkpoint.layouts import (
    DeclaredQuantization,
    infer_quantization,
    kernel_needs_transposing,
)
from scribewire.engine.checkpoint.load import read_checkpoint, resident_arrays
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.projection import Placement, QuantizedTensor, Weights
from scribewire.engine.protocol.errors import CheckpointMismatch, ModelIncomplete, ModelNotFound
from tests.fakes.loading import cpu_profile, load_checkpoint
from tests.fakes.random_model import TRUE_WINDOWS, make_config, make_weights, write_checkpoint

TOWER_LINEARS = ("self_attn", "fc1", "fc2", "proj1", "proj2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", TRUE_WINDOWS, "mlx")


def rewrite(folder: Path, change: dict[str, mx.array | None]) -> None:
    """Replace, add or (None) remove tensors of the folder's one file."""
    path = folder / "model.safetensors"
    tensors = mx.load(str(path))
    assert isinstance(tensors, dict)
    mx.eval(list(tensors.values()))
    for name, value in change.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    mx.save_safetensors(str(path), tensors)


def quantize_folder(
    folder: Path, *, bits: int, group_size: int, tower: bool, declare: bool
) -> dict[str, mx.array]:
    """Quantize the decoder's matrices (and the audio tower's) in place; returns what they stand for."""
    stored = mx.load(str(folder / "model.safetensors"))
    assert isinstance(stored, dict)
    tensors: dict[str, mx.array] = {}
    meant: dict[str, mx.array] = {}
    for name, value in stored.items():
        in_decoder = name.startswith("model.") and value.ndim == 2
        in_tower = tower and name.startswith("audio_tower.") and any(part in name for part in TOWER_LINEARS)
        if not (in_decoder or (in_tower and value.ndim == 2)) or value.shape[1] % group_size:
            tensors[name] = meant[name] = value
            continue
        module = name.removesuffix(".weight")
        packed, scales, biases = mx.quantize(value, group_size=group_size, bits=bits)
        tensors |= {name: packed, f"{module}.scales": scales, f"{module}.biases": biases}
        meant[name] = mx.dequantize(packed, scales, biases, group_size=group_size, bits=bits)
    mx.eval(list(tensors.values()))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    if declare:
        config = json.loads((folder / "config.json").read_text())
        config["quantization"] = {"group_size": group_size, "bits": bits, "mode": "affine"}
        (folder / "config.json").write_text(json.dumps(config))
    return meant


def logits_of(model: SpeechModel) -> np.ndarray:
    audio = model.encode([mx.array(np.random.default_rng(3).normal(size=(130, 128)).astype(np.float32))])[0]
    pads = [model.audio_token_id] * audio.shape[0]
    return np.array(model.score([1, 2, *pads, 3], audio, [7, 8, 9]))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("declare", [True, False], ids=["declared", "by shapes alone"])
def test_quantized_checkpoint_loads_and_computes_what_its_matrices_stand_for(
    folder: Path, bits: int, declare: bool
) -> None:
    meant = quantize_folder(folder, bits=bits, group_size=32, tower=bits == 8, declare=declare)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.decoder_bits == bits
    placed = logits_of(load_checkpoint(folder, dtype=mx.float32))
    plain = SpeechModel(checkpoint.config, Weights(meant, Placement(mx.float32)))
    np.testing.assert_allclose(placed, logits_of(plain), rtol=0, atol=2e-4)


def test_packed_products_agree_with_dequantized_ones(folder: Path) -> None:
    quantize_folder(folder, bits=4, group_size=32, tower=True, declare=True)
    checkpoint = read_checkpoint(folder)
    assert isinstance(checkpoint.tensors["model.layers.0.mlp.up_proj.weight"], QuantizedTensor)
    packed = SpeechModel(checkpoint.config, Weights(checkpoint.tensors, Placement(mx.float32)))
    dense = SpeechModel(checkpoint.config, Weights(checkpoint.tensors, cpu_profile().placement))
    np.testing.assert_allclose(logits_of(packed), logits_of(dense), rtol=0, atol=2e-4)


def test_projections_quantized_differently_are_kept_apart_and_still_agree(folder: Path) -> None:
    quantize_folder(folder, bits=4, group_size=32, tower=False, declare=False)
    weights = make_weights(TRUE_WINDOWS)
    name = "model.layers.0.self_attn.q_proj"
    packed, scales, biases = mx.quantize(mx.array(weights[f"{name}.weight"]), group_size=64, bits=8)
    rewrite(folder, {f"{name}.weight": packed, f"{name}.scales": scales, f"{name}.biases": biases})
    checkpoint = read_checkpoint(folder)
    apart = SpeechModel(checkpoint.config, Weights(checkpoint.tensors, Placement(mx.float32)))
    dense = SpeechModel(checkpoint.config, Weights(checkpoint.tensors, cpu_profile().placement))
    np.testing.assert_allclose(logits_of(apart), logits_of(dense), rtol=0, atol=2e-4)


def test_both_matrix_layouts_give_the_same_logits(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    published = SpeechModel(checkpoint.config, Weights(checkpoint.tensors, Placement(mx.float32)))
    turned = SpeechModel(checkpoint.config, Weights(checkpoint.tensors, cpu_profile().placement))
    np.testing.assert_allclose(logits_of(published), logits_of(turned), rtol=0, atol=2e-5)


def test_missing_tensor_is_named_with_the_shape_it_should_have(folder: Path) -> None:
    rewrite(folder, {"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(CheckpointMismatch, match=r"no model\.layers\.1\.mlp\.up_proj\.weight .*\(96, 64\)"):
        read_checkpoint(folder)


def test_tensor_without_a_place_is_named(folder: Path) -> None:
    rewrite(folder, {"model.layers.7.mlp.up_proj.weight": mx.zeros((96, 64))})
    with pytest.raises(CheckpointMismatch, match=r"without a place .*model\.layers\.7\.mlp\.up_proj\.weight"):
        read_checkpoint(folder)


def test_wrong_shape_is_named_as_found_and_wanted(folder: Path) -> None:
    rewrite(folder, {"audio_tower.proj1.weight": mx.zeros((128, 127))})
    with pytest.raises(
        CheckpointMismatch, match=r"proj1\.weight has shape \(128, 127\), wanted \(128, 128\)"
    ):
        read_checkpoint(folder)


def test_integer_weights_without_scales_are_refused(folder: Path) -> None:
    rewrite(folder, {"audio_tower.proj1.weight": mx.zeros((128, 128), dtype=mx.int32)})
    with pytest.raises(CheckpointMismatch, match=r"proj1\.weight is .*int32, wanted a float type"):
        read_checkpoint(folder)


def test_stored_copy_of_the_tied_head_is_left_out(folder: Path) -> None:
    table = mx.array(make_weights(TRUE_WINDOWS)["model.embed_tokens.weight"])
    rewrite(folder, {"lm_head.weight": table})
    assert "lm_head.weight" not in read_checkpoint(folder).tensors


def test_stored_head_that_differs_from_the_embeddings_is_used(folder: Path) -> None:
    rewrite(folder, {"lm_head.weight": mx.zeros((640, 64))})
    assert not logits_of(load_checkpoint(folder, dtype=mx.float32)).any()


def test_same_tensor_under_two_published_names_is_refused(folder: Path) -> None:
    rewrite(folder, {"thinker.model.norm.weight": mx.ones((64,))})
    with pytest.raises(CheckpointMismatch, match="given already"):
        read_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 7, 8, 500, -1])
def test_cut_off_weights_are_called_incomplete(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelIncomplete, match="cut off"):
        read_checkpoint(folder)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", TRUE_WINDOWS, "thinker", shard_count=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelIncomplete, match="lacks model-00002-of-00003"):
        read_checkpoint(folder)


def test_folder_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no folder"):
        read_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ModelIncomplete, match=r"no config\.json"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelIncomplete, match="cannot be read"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointMismatch, match="not a Qwen3-ASR model"):
        read_checkpoint(tmp_path)


def test_missing_size_in_the_configuration_is_named(folder: Path) -> None:
    config = make_config(TRUE_WINDOWS, "mlx")
    del config["thinker_config"]["text_config"]["head_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointMismatch, match="text_config has no head_dim"):
        read_checkpoint(folder)


def test_loaded_model_is_in_the_asked_type_throughout(folder: Path) -> None:
    model = load_checkpoint(folder, dtype=mx.bfloat16)
    assert {array.dtype for array in resident_arrays(model)} == {mx.bfloat16}


def test_declared_bits_of_a_floating_point_mode_must_fit_the_shapes() -> None:
    assert infer_quantization((64, 8), (64, 2), 64) == (4, 32)
    with pytest.raises(ValueError, match="declares 8 bits"):
        infer_quantization((64, 8), (64, 2), 64, DeclaredQuantization(bits=8, mode="mxfp8"))
    with pytest.raises(ValueError, match="no supported width"):
        infer_quantization((64, 9), (64, 2), 64)


def test_kernel_orientation_is_found_by_the_square_axes() -> None:
    assert kernel_needs_transposing((480, 1, 3, 3))
    assert kernel_needs_transposing((480, 480, 3, 3))
    assert not kernel_needs_transposing((480, 3, 3, 1))
    assert not kernel_needs_transposing((480, 3, 3, 480))
