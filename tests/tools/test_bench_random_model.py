"""Random models for benchmarks: published shapes and ids, every recipe loads, a kept folder is used again."""

import json
import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.checkpoint.layouts import expected_shapes
from scribewire.engine.checkpoint.load import build_aligner, read_checkpoint
from scribewire.engine.model.config import ModelConfig
from scribewire.engine.model.projection import QuantizedTensor
from scribewire.engine.text.prompt import build_prompt
from scribewire.engine.text.tokenizer import Tokenizer
from tests.fakes.loading import cpu_profile, load_checkpoint
from tools.bench.plain_copy import write_plain_copy
from tools.bench.random_model import is_random_model, random_tensors, write_random_model
from tools.bench.sizes import ALIGNER_SIZES, RECIPES, SIZES, ModelSizes, published_config
from tools.bench.tokenizer_files import control_tokens, vocabulary_and_merges, write_tokenizer

SMALLEST = ModelSizes("smallest", 64, 1, 1, 64, 4, 64, 1, 1, 1, 64)


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of 1,024 rows and no tokenizer beside it, so that a model is written in milliseconds."""
    monkeypatch.setattr("tools.bench.sizes.VOCABULARY_SIZE", 1024)
    for number, name in enumerate(("AUDIO_START_ID", "AUDIO_END_ID", "AUDIO_PAD_ID", "TIMESTAMP_ID"), 1000):
        monkeypatch.setattr(f"tools.bench.sizes.{name}", number)
    monkeypatch.setattr("tools.bench.random_model.write_tokenizer", lambda folder: None)


@pytest.mark.parametrize(("name", "parameter_count"), [("0.6b", 782_426_112), ("1.7b", 2_038_052_480)])
def test_full_sizes_have_as_many_parameters_as_published(name: str, parameter_count: int) -> None:
    config = ModelConfig.from_dict(published_config(SIZES[name], RECIPES["8bit"], []))
    assert sum(math.prod(shape) for shape in expected_shapes(config).values()) == parameter_count
    assert config.audio_token_id == 151_676


def test_the_aligners_full_size_has_as_many_parameters_as_published() -> None:
    config = ModelConfig.from_dict(published_config(ALIGNER_SIZES["aligner-0.6b"], RECIPES["8bit"], []))
    assert sum(math.prod(shape) for shape in expected_shapes(config).values()) == 917_728_896
    assert (config.class_count, config.timestamp_token_id, config.text.vocab_size) == (5000, 151_705, 152_064)


@pytest.mark.parametrize("recipe", ["bf16", "8bit"])
@pytest.mark.usefixtures("few_words")
def test_a_random_aligner_is_read_strictly_with_its_head(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.bench.sizes.ALIGNER_VOCABULARY_SIZE", 1024)
    folder = write_random_model(tmp_path / "model", replace(SMALLEST, classes=100), RECIPES[recipe])
    checkpoint = read_checkpoint(folder)
    assert isinstance(checkpoint.tensors["lm_head.weight"], QuantizedTensor) == (recipe == "8bit")
    aligner = build_aligner(checkpoint, cpu_profile().placement)
    audio = aligner.encode([mx.zeros((100, 128))])
    pads = [aligner.audio_token_id] * audio[0].shape[0]
    [logits] = aligner.time_logits([[*pads, 5, 7, 7]], audio, 7)
    assert logits.shape == (2, 100)
    assert np.isfinite(np.array(logits)).all()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("few_words")
def test_every_recipe_is_stored_as_it_says_and_read_strictly(tmp_path: Path, recipe: str) -> None:
    folder = write_random_model(tmp_path / "model", SMALLEST, RECIPES[recipe])
    tensors = read_checkpoint(folder).tensors
    text, audio = tensors["model.layers.0.mlp.up_proj.weight"], tensors["audio_tower.layers.0.fc1.weight"]
    for tensor, bits in ((text, RECIPES[recipe].text_bits), (audio, RECIPES[recipe].audio_bits)):
        if bits is None:
            assert isinstance(tensor, mx.array)
            assert str(tensor.dtype).endswith(RECIPES[recipe].dtype)
        else:
            assert isinstance(tensor, QuantizedTensor)
            assert (tensor.bits, tensor.group_size) == (bits, 64)


@pytest.mark.usefixtures("few_words")
def test_a_random_model_computes_finite_logits(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", SMALLEST, RECIPES["8bit"])
    model = load_checkpoint(folder, dtype=mx.float32)
    scores = np.array(model.score([1, 2, 3], None, [4, 5]))
    assert scores.shape == (2, 1024)
    assert np.isfinite(scores).all()
    assert scores.std() > 0.01


@pytest.mark.usefixtures("few_words")
def test_the_same_name_gives_the_same_weights_and_another_gives_others() -> None:
    first, _ = random_tensors(SMALLEST, RECIPES["fp32"])
    second, _ = random_tensors(SMALLEST, RECIPES["fp32"])
    assert all(mx.array_equal(first[name], second[name]).item() for name in first)
    layer = "model.layers.0.mlp"
    assert not mx.array_equal(first[f"{layer}.up_proj.weight"], first[f"{layer}.gate_proj.weight"]).item()


@pytest.mark.usefixtures("few_words")
def test_a_kept_folder_is_used_again_and_any_other_is_left_alone(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", SMALLEST, RECIPES["4bit"])
    written = (folder / "model.safetensors").stat().st_mtime_ns
    write_random_model(folder, SMALLEST, RECIPES["4bit"])
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert not is_random_model(folder, SMALLEST, RECIPES["8bit"])
    with pytest.raises(FileExistsError, match="something else"):
        write_random_model(folder, SMALLEST, RECIPES["8bit"])
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.usefixtures("few_words")
def test_a_run_that_broke_off_leaves_nothing_under_the_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tools.bench.random_model.write_tokenizer", break_off)
        with pytest.raises(KeyboardInterrupt):
            write_random_model(tmp_path / "model", SMALLEST, RECIPES["bf16"])
    assert not (tmp_path / "model").exists()
    assert is_random_model(
        write_random_model(tmp_path / "model", SMALLEST, RECIPES["bf16"]), SMALLEST, RECIPES["bf16"]
    )


@pytest.mark.usefixtures("few_words")
def test_an_unpacked_copy_holds_the_same_numbers(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", SMALLEST, RECIPES["audio8-text4"])
    copy = write_plain_copy(folder, tmp_path / "plain", mx.float32)
    packed, plain = read_checkpoint(folder).tensors, read_checkpoint(copy).tensors
    assert set(packed) == set(plain)
    for name, tensor in plain.items():
        assert isinstance(tensor, mx.array)
        original = packed[name]
        wanted = original.dequantized(mx.float32) if isinstance(original, QuantizedTensor) else original
        assert mx.array_equal(tensor, wanted.astype(mx.float32)).item(), name
    assert "quantization" not in json.loads((copy / "config.json").read_text())


def test_prompts_get_the_published_ids(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    published = [151644, 8948, 198, 151645, 198, 151644, 872, 198, 151669, 151676, 151676]
    published += [151670, 151645, 198, 151644, 77091, 198]
    assert build_prompt(tokenizer, audio_tokens=2) == published
    assert build_prompt(tokenizer, audio_tokens=2, language="English") == [*published, 11528, 6364, 151704]
    assert tokenizer.end_ids == {151643, 151645}
    assert tokenizer.largest_id < 151_936
    # Whatever a random model says has a text.
    assert tokenizer.decode([11528, 6364, 151704, 12275]).startswith("language English<asr_text> ")


def test_every_id_has_a_token_of_its_own() -> None:
    vocabulary, merges = vocabulary_and_merges()
    assert sorted(vocabulary.values()) == list(range(151_643))
    assert sorted(control_tokens()) == list(range(151_643, 151_706))
    assert len(set(control_tokens().values())) == 63
    assert {left + right for left, right in merges} <= set(vocabulary)
