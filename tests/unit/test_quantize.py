"""`scribewire quantize`: MLX's own numbers, recipes that touch what they say, runs that go on where they broke off."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from scribewire.engine.checkpoint import quantize as quantizer
from scribewire.engine.checkpoint.fetch import check_model_folder
from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.checkpoint.quantize import DRAFT_SUFFIX, RECORD_FILE, quantize
from scribewire.engine.checkpoint.recipes import RECIPES, Scheme, find_recipe
from scribewire.engine.model.projection import QuantizedTensor
from scribewire.engine.protocol.errors import CheckpointMismatch, ModelIncomplete, OptionInvalid
from tests.fakes.loading import load_checkpoint
from tests.fakes.random_model import ALIGNER, TRUE_WINDOWS, Layout, Sizes, write_checkpoint, write_safetensors
from tests.fakes.tiny_model import write_tokenizer
from tests.fakes.waiting import PATIENCE_SECONDS

PROJECT = Path(__file__).resolve().parents[2]
WIDE = replace(TRUE_WINDOWS, hidden_size=128, intermediate_size=192, encoder_ffn_dim=192)
"""Widths that groups of 64 divide, so that every matrix is quantized."""

PLAIN = {
    "4bit": (64, 4, "affine"),
    "5bit": (64, 5, "affine"),
    "6bit": (64, 6, "affine"),
    "8bit": (64, 8, "affine"),
    "mxfp4": (32, 4, "mxfp4"),
    "mxfp8": (32, 8, "mxfp8"),
    "nvfp4": (16, 4, "nvfp4"),
}


class Broken(Exception):
    """What ends a run from within."""


def write_source(folder: Path, sizes: Sizes = WIDE, layout: Layout = "thinker") -> Path:
    write_checkpoint(folder, sizes, layout, stored="BF16")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "model")


def made(source: Path, folder: Path, recipe: str, **more: Any) -> Path:
    quantize(source, folder, find_recipe(recipe), source_id="someone/Model", **more)
    return folder


def stored(folder: Path) -> dict[str, mx.array]:
    tensors: dict[str, mx.array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        loaded = mx.load(str(path))
        assert isinstance(loaded, dict)
        tensors |= loaded
    return tensors


def is_same(one: mx.array, other: mx.array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(mx.array_equal(one, other).item())


def config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


# ---- recipes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", PLAIN)
def test_plain_recipes_are_mlx_nn_quantize_bit_for_bit(source: Path, tmp_path: Path, recipe: str) -> None:
    group_size, bits, mode = PLAIN[recipe]
    ours = stored(made(source, tmp_path / "made", recipe))
    matrices = {
        name.removesuffix(".weight"): tensor
        for name, tensor in read_checkpoint(source).tensors.items()
        if isinstance(tensor, mx.array) and tensor.ndim == 2 and name.startswith("model.")
    }
    for module, matrix in matrices.items():
        layer = nn.Embedding(1, 1) if module.endswith("embed_tokens") else nn.Linear(1, 1, bias=False)
        layer.weight = matrix
        theirs = nn.Sequential(layer)
        nn.quantize(theirs, group_size=group_size, bits=bits, mode=mode)
        for part, array in theirs.layers[0].parameters().items():
            assert is_same(ours.pop(f"{module}.{part}"), array), f"{module}.{part}"
    assert len(matrices) == 15
    assert not [name for name in ours if name.endswith((".scales", ".biases"))]


def test_matrices_quantized_in_parts_equal_whole_ones(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(source, tmp_path / "whole", "audio8-text4")
    monkeypatch.setattr(quantizer, "_PART_WEIGHTS", 1000)
    in_parts = made(source, tmp_path / "parts", "audio8-text4")
    name = "model.safetensors"
    assert (in_parts / name).read_bytes() == (whole / name).read_bytes()


def test_audio8_text4_differs_from_4bit_in_the_audio_tower_alone(source: Path, tmp_path: Path) -> None:
    plain = stored(made(source, tmp_path / "plain", "4bit"))
    mixed = stored(made(source, tmp_path / "mixed", "audio8-text4"))
    different = {name for name in plain.keys() | mixed.keys() if name not in plain or name not in mixed}
    different |= {name for name in plain.keys() & mixed.keys() if not is_same(plain[name], mixed[name])}
    assert different
    assert all(name.startswith("audio_tower.") for name in different)
    tower = {
        name: tensor
        for name, tensor in read_checkpoint(tmp_path / "mixed").tensors.items()
        if name.startswith("audio_tower.") and isinstance(tensor, QuantizedTensor)
    }
    assert len(tower) == 1 + 2 * 6 + 2  # conv_out, six in each of two layers, two projector maps
    assert {(one.bits, one.group_size) for one in tower.values()} == {(8, 64)}


@pytest.mark.parametrize(
    ("recipe", "attention", "mlp", "embeddings"),
    [("attn8-mlp4", 8, 4, None), ("attn8-mlp4+embed8", 8, 4, 8), ("4bit+embed8", 4, 4, 8), ("5bit", 5, 5, 5)],
)
def test_recipes_give_each_part_its_bits_and_the_loader_reads_them(
    source: Path, tmp_path: Path, recipe: str, attention: int, mlp: int, embeddings: int | None
) -> None:
    tensors = read_checkpoint(made(source, tmp_path / "made", recipe)).tensors

    def bits(name: str) -> int | None:
        tensor = tensors[f"{name}.weight"]
        return tensor.bits if isinstance(tensor, QuantizedTensor) else None

    assert {bits(f"model.layers.1.self_attn.{part}_proj") for part in "qkvo"} == {attention}
    assert {bits(f"model.layers.1.mlp.{part}_proj") for part in ("gate", "up", "down")} == {mlp}
    assert bits("model.embed_tokens") == embeddings
    assert bits("audio_tower.layers.0.fc1") is None


def test_rules_of_a_file_hold_in_their_order(source: Path, tmp_path: Path) -> None:
    rules = tmp_path / "mine.toml"
    rules.write_text(
        '[[rule]]\nmodules = "model.layers.0.*"\nbits = 16\n'
        '[[rule]]\nmodules = "*.mlp.*"\nmode = "mxfp8"\n'
        '[[rule]]\nmodules = "model.*"\nbits = 3\ngroup_size = 32\n'
    )
    tensors = read_checkpoint(made(source, tmp_path / "made", str(rules))).tensors
    found = {
        name: (one.bits, one.group_size, one.mode)
        for name, one in tensors.items()
        if isinstance(one, QuantizedTensor)
    }
    assert not [name for name in found if name.startswith(("model.layers.0.", "audio_tower."))]
    assert found["model.layers.1.mlp.up_proj.weight"] == (8, 32, "mxfp8")
    assert found["model.layers.1.self_attn.q_proj.weight"] == (3, 32, "affine")
    assert found["model.embed_tokens.weight"] == (3, 32, "affine")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rule = 1", "something else than tables"),
        ("[[rule]\n", "mine.toml"),
        ("[[rule]]\nbits = 4", "rule 1: modules must be"),
        ('[[rule]]\nmodules = "*"\nbits = 7', "rule 1: bits is 7, not one of 2, 3, 4, 5, 6, 8, 16"),
        ('[[rule]]\nmodules = "*"\nbits = 4\ngroup_size = 48', "group_size is 48"),
        ('[[rule]]\nmodules = "*"\nmode = "mxfp4"\nbits = 8', "mode mxfp4 has 4 bits in groups of 32"),
        ('[[rule]]\nmodules = "*"\nmode = "gguf"', "unknown mode 'gguf'"),
        ('[[rule]]\nmodules = "*"\nbitz = 4', "unknown key 'bitz'"),
    ],
)
def test_a_rule_that_says_nothing_sensible_is_named(tmp_path: Path, text: str, said: str) -> None:
    rules = tmp_path / "mine.toml"
    rules.write_text(text)
    with pytest.raises(OptionInvalid) as refused:
        find_recipe(str(rules))
    assert said in str(refused.value)


def test_a_rule_that_fits_no_matrix_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "mine.toml"
    rules.write_text('[[rule]]\nmodules = "model.layer.*"\nbits = 4\n')
    with pytest.raises(OptionInvalid, match=r"no matrix of this model is called model\.layer\.\*"):
        made(source, tmp_path / "made", str(rules))
    assert not (tmp_path / "made").exists()


def test_unknown_recipes_are_refused_with_the_known_ones() -> None:
    for text in ("3bit", "4bit+", "4bit+embed4", "embed8"):
        with pytest.raises(OptionInvalid, match="recipes are 4bit, 5bit, 6bit, 8bit, audio8-text4"):
            find_recipe(text)
    assert set(PLAIN) | {"audio8-text4", "attn8-mlp4"} == set(RECIPES)


def test_a_matrix_that_groups_do_not_divide_is_left_as_it_is(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", replace(WIDE, intermediate_size=96))
    tensors = read_checkpoint(made(source, tmp_path / "made", "8bit")).tensors
    assert isinstance(tensors["model.layers.0.mlp.down_proj.weight"], mx.array)
    assert isinstance(tensors["model.layers.0.mlp.up_proj.weight"], QuantizedTensor)


# ---- what is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["thinker", "hf", "mlx"])
def test_every_layout_becomes_the_same_folder(source: Path, tmp_path: Path, layout: Layout) -> None:
    folder = made(write_source(tmp_path / "source", layout=layout), tmp_path / "made", "audio8-text4")
    expected = stored(made(source, tmp_path / "expected", "audio8-text4"))
    found = stored(folder)
    assert found.keys() == expected.keys()
    assert all(is_same(found[name], expected[name]) for name in expected)
    assert config(folder)["thinker_config"]["audio_config"]["encoder_layers"] == WIDE.encoder_layers
    check_model_folder(folder)
    assert load_checkpoint(folder, dtype=mx.float32).audio_token_id == 295


def test_an_aligner_keeps_its_head_quantized(tmp_path: Path) -> None:
    sizes = replace(ALIGNER, hidden_size=128, intermediate_size=192)
    folder = made(write_source(tmp_path / "source", sizes, "hf"), tmp_path / "made", "8bit")
    checkpoint = read_checkpoint(folder)
    assert checkpoint.config.class_count == 375
    assert isinstance(checkpoint.tensors["lm_head.weight"], QuantizedTensor)


def test_config_declares_the_most_common_form_and_every_other_by_module(source: Path, tmp_path: Path) -> None:
    written = config(made(source, tmp_path / "made", "4bit+embed8"))
    section = written["quantization"]
    assert written["quantization_config"] == section
    assert section == {"group_size": 64, "bits": 4, "mode": "affine"} | {
        "model.embed_tokens": {"group_size": 64, "bits": 8, "mode": "affine"}
    }


def test_the_card_tells_recipe_sizes_and_error(source: Path, tmp_path: Path) -> None:
    folder = made(source, tmp_path / "made", "4bit", quality="WER 2.72 %")
    card = (folder / "README.md").read_text()
    before, after = (read_checkpoint(one).tensors for one in (source, folder))
    squares = [0.0, 0.0]
    for name, tensor in after.items():
        if isinstance(tensor, QuantizedTensor) and ".mlp." in name:
            stored_before = before[name]
            assert isinstance(stored_before, mx.array)
            plain = np.array(stored_before.astype(mx.float32), dtype=np.float64)
            difference = np.array(tensor.dequantized(mx.float32), dtype=np.float64) - plain
            squares = [squares[0] + float((difference**2).sum()), squares[1] + float((plain**2).sum())]
    error = math.sqrt(squares[0] / squares[1])
    assert f"| MLP | 6 | {6 * 128 * 192:,} | affine, 4 bits, groups of 64 | {error:.4f} |" in card
    assert 0.01 < error < 0.2
    assert "base_model: someone/Model" in card
    assert "WER 2.72 %" in card
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size / 1e6:,.0f} MB instead of" in card


def test_quality_is_added_to_a_complete_folder_without_writing_its_weights_again(
    source: Path, tmp_path: Path
) -> None:
    folder = made(source, tmp_path / "made", "4bit")
    before = (folder / "model.safetensors").stat()
    made(source, folder, "4bit", quality="CER 3.67 %")
    made(source, folder, "4bit")
    after = (folder / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert "CER 3.67 %" in (folder / "README.md").read_text()


def test_broken_weights_are_named_and_no_model_is_left(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", layout="mlx")
    tensors = {name: np.array(one.astype(mx.float32)) for name, one in stored(source).items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    write_safetensors(source / "model.safetensors", tensors, "BF16")
    with pytest.raises(CheckpointMismatch, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        made(source, tmp_path / "made", "4bit")
    with pytest.raises(ModelIncomplete):
        check_model_folder(tmp_path / "made")


# ---- runs that are broken off --------------------------------------------------------------------------------


def shards_of(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in folder.glob("*.safetensors")}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in found.items()}


def test_a_run_that_is_broken_off_goes_on_with_the_shard_that_it_was_at(source: Path, tmp_path: Path) -> None:
    expected = made(source, tmp_path / "expected", "4bit", shard_bytes=100_000)
    folder = tmp_path / "made"

    def break_off(done: int, total: int) -> None:
        if done > total / 2:
            raise Broken

    with pytest.raises(Broken):
        made(source, folder, "4bit", shard_bytes=100_000, progress=break_off)
    kept = shards_of(folder)
    assert 0 < len(kept) < len(shards_of(expected))
    with pytest.raises(ModelIncomplete, match=r"config\.json"):
        check_model_folder(folder)
    reported: list[int] = []
    made(source, folder, "4bit", shard_bytes=100_000, progress=lambda done, total: reported.append(done))
    assert reported[0] > 0
    assert shards_of(folder).items() >= kept.items()
    names = {path.name for path in expected.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    assert all((folder / name).read_bytes() == (expected / name).read_bytes() for name in names)


def test_a_killed_run_goes_on_too(source: Path, tmp_path: Path) -> None:
    expected = made(source, tmp_path / "expected", "4bit", shard_bytes=100_000)
    folder = tmp_path / "made"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from scribewire.engine.checkpoint.quantize import quantize\n"
        "from scribewire.engine.checkpoint.recipes import find_recipe\n"
        "kill = lambda done, total: done > total / 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "quantize(Path(sys.argv[1]), Path(sys.argv[2]), find_recipe('4bit'), source_id='someone/Model',\n"
        "    shard_bytes=100_000, progress=kill)\n"
    )
    command = [sys.executable, "-c", script, str(source), str(folder)]
    killed = subprocess.run(command, cwd=PROJECT, check=False, timeout=PATIENCE_SECONDS)
    assert killed.returncode == -signal.SIGKILL
    kept = shards_of(folder)
    assert kept
    assert list(folder.glob(f"*{DRAFT_SUFFIX}"))
    made(source, folder, "4bit", shard_bytes=100_000)
    assert shards_of(folder).items() >= kept.items()
    assert all((folder / one.name).read_bytes() == one.read_bytes() for one in expected.iterdir())


def test_a_shard_that_was_not_noted_or_has_lost_bytes_is_made_anew(source: Path, tmp_path: Path) -> None:
    folder = made(source, tmp_path / "made", "4bit", shard_bytes=100_000)
    whole = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    first, second = sorted(whole)[:2]
    (folder / first).write_bytes(whole[first][:-1])
    record = json.loads((folder / RECORD_FILE).read_text())
    del record["done"][second]
    (folder / RECORD_FILE).write_text(json.dumps(record))
    (folder / second).write_bytes(b"left by a run that was killed")
    made(source, folder, "4bit", shard_bytes=100_000)
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == whole


def test_a_folder_of_another_recipe_or_of_anything_else_is_refused_and_left(
    source: Path, tmp_path: Path
) -> None:
    folder = made(source, tmp_path / "made", "4bit")
    before = shards_of(folder)
    with pytest.raises(OptionInvalid, match="begun from another source or with another recipe"):
        made(source, folder, "8bit")
    assert shards_of(folder) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(OptionInvalid, match="holds something already"):
        made(source, other, "4bit")
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def test_a_second_process_is_refused_while_one_writes(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    refusals: list[str] = []

    def ask_again(done: int, total: int) -> None:
        if not refusals:
            with pytest.raises(OptionInvalid) as refused:
                made(source, folder, "4bit")
            refusals.append(str(refused.value))

    made(source, folder, "4bit", progress=ask_again)
    assert "another process is writing" in refusals[0]


def test_schemes_are_written_as_config_json_has_them() -> None:
    assert Scheme(8, 32, "mxfp8").declared == {"group_size": 32, "bits": 8, "mode": "mxfp8"}
