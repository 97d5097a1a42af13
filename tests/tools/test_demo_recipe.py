"""Promises of the demo model's recipe, tested without torch and without the synthesizers."""

from __future__ import annotations

import collections
import itertools
import json
import random
import wave

import numpy as np
import pytest
import tokenizers

from scribewire.engine.demo import demo_model_path, model_card_path, sample_recordings
from tools.demo_model import checkpoint_files, corpus, export, speech
from tools.demo_model.vocabulary import ADDED_TOKENS, Prompt, target_text, train_tokenizer, write_tokenizer

SIZES = {
    "vocabulary": 4096, "audio_width": 256, "audio_layers": 6, "audio_heads": 4, "audio_ffn": 1024,
    "stem_channels": 64, "width": 256, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 128, "ffn": 960,
    "rope_theta": 1_000_000.0,
}  # fmt: skip
IDS = {"<|audio_pad|>": 7, "<|audio_start|>": 5, "<|audio_end|>": 6, "<|im_end|>": 3, "<|endoftext|>": 1}


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    lines = [
        "The boy reads a book in language class.",
        "El niño lee un libro, ¿verdad?",
        "No user speaks.",
    ] * 20
    return train_tokenizer(lines, vocabulary_size=400)


class TestVoices:
    def test_held_out_variants_are_never_trained_on_in_any_language(self) -> None:
        assert set(speech.HELD_OUT_VARIANTS) == set(speech.LANGUAGES)
        assert not set(speech.HELD_OUT_VARIANTS.values()) & set(speech.ESPEAK_VARIANTS)
        rng = random.Random(0)
        for language in speech.LANGUAGES:
            drawn = {speech.training_voice(language, rng).variant for _ in range(3000)}
            assert drawn == {"", *speech.ESPEAK_VARIANTS}

    def test_all_four_flite_voices_speak_english_and_none_speaks_spanish(self) -> None:
        rng = random.Random(1)
        english = [speech.training_voice("English", rng) for _ in range(400)]
        assert {voice.name for voice in english if voice.engine == "flite"} == {"kal16", "awb", "rms", "slt"}
        spanish = [speech.training_voice("Spanish", rng) for _ in range(400)]
        assert {voice.engine for voice in spanish} == {"espeak"}
        assert {voice.name for voice in spanish} == {"es", "es-419"}

    def test_held_out_voice_uses_only_the_variant_kept_out(self) -> None:
        rng = random.Random(2)
        for language in speech.LANGUAGES:
            voices = {speech.held_out_voice(language, rng).variant for _ in range(50)}
            assert voices == {speech.HELD_OUT_VARIANTS[language]}

    def test_settings_stay_in_their_ranges(self) -> None:
        rng = random.Random(3)
        for voice in (speech.training_voice("English", rng) for _ in range(500)):
            if voice.engine == "flite":
                assert 0.8 <= voice.speed <= 1.25
                assert voice.pitch == 0 or 80 <= voice.pitch <= 230
            else:
                assert 120 <= voice.speed <= 200
                assert 20 <= voice.pitch <= 80

    def test_missing_programs_are_named_with_the_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(speech.SynthesizerMissing, match=r"flite, espeak-ng.*apt-get install"):
            speech.Programs.installed()


class TestClips:
    """Clips with a synthesizer that only takes notes: (text, voice) pieces of 3 s each."""

    @staticmethod
    def made(count: int, paragraphs_only: bool = False) -> list[tuple[str, list[tuple[str, speech.Voice]]]]:
        rng = random.Random(5)
        notes: corpus.Speaker[list[tuple[str, speech.Voice]]] = corpus.Speaker(
            speak=lambda text, voice: [(text, voice)],
            seconds=lambda pieces: 3.0 * len(pieces),
            join=lambda pieces, pauses: [one for piece in pieces for one in piece],
        )
        sentences = (f"Sentence number {number} is said." for number in itertools.count())
        voices = [(corpus.clip_voice("English", rng), speech.flite_voice(rng)) for _ in range(count)]
        return [corpus.compose(sentences, pair, rng, notes, paragraphs_only) for pair in voices]

    def test_text_is_what_the_pieces_say(self) -> None:
        assert all(text == " ".join(said for said, _ in pieces) for text, pieces in self.made(400))

    def test_voice_changes_once_and_only_in_paragraphs(self) -> None:
        in_pieces = [[voice for _, voice in pieces] for _, pieces in self.made(2000)]
        paragraphs = [voices for voices in in_pieces if len(voices) > 1]
        changes = [sum(a != b for a, b in itertools.pairwise(voices)) for voices in paragraphs]
        assert set(changes) == {0, 1}
        assert 0.1 < sum(changes) / len(changes) < 0.3

    def test_paragraphs_alone_have_no_single_sentence(self) -> None:
        made = self.made(300, paragraphs_only=True)
        assert all(text.count(" is said.") > 1 for text, _ in made)

    def test_flite_speaks_more_than_half_of_english_and_no_spanish(self) -> None:
        rng = random.Random(6)
        english = [corpus.clip_voice("English", rng).engine for _ in range(2000)]
        assert 0.58 < english.count("flite") / len(english) < 0.67
        assert {corpus.clip_voice("Spanish", rng).engine for _ in range(200)} == {"espeak"}

    def test_voice_that_is_misheard_most_speaks_most_and_the_evaluation_draws_all_alike(self) -> None:
        rng = random.Random(7)
        drawn = [corpus.clip_voice("English", rng) for _ in range(4000)]
        trained = collections.Counter(voice.name for voice in drawn if voice.engine == "flite")
        assert trained["kal16"] > 1.2 * trained["awb"]
        assert trained["awb"] > 1.2 * trained["slt"] > 0
        evaluated = collections.Counter(speech.flite_voice(rng).name for _ in range(4000))
        assert max(evaluated.values()) < 1.15 * min(evaluated.values())


class TestSamples:
    def test_resampling_keeps_a_tone_and_its_level(self) -> None:
        at_22k = np.rint(9000 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)).astype(np.int16)
        out = speech.resample(at_22k, 22_050)
        wanted = 9000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
        assert len(out) == 16_000
        assert np.abs(out[200:-200] - wanted[200:-200]).max() < 30

    def test_resampling_removes_what_16_khz_cannot_hold(self) -> None:
        at_22k = np.rint(9000 * np.sin(2 * np.pi * 9500 * np.arange(22_050) / 22_050)).astype(np.int16)
        assert np.abs(speech.resample(at_22k, 22_050)[200:-200]).max() < 90

    def test_trimming_cuts_silence_and_leaves_the_level_alone(self) -> None:
        tone = np.rint(3000 * np.sin(np.arange(4000) / 5)).astype(np.int16)
        samples = np.concatenate([np.zeros(8000, np.int16), tone, np.zeros(9000, np.int16)])
        trimmed = speech.trim_edges(samples)
        assert 4000 <= len(trimmed) <= 4000 + 320
        assert trimmed.max() == tone.max()

    def test_silent_speech_is_an_error(self) -> None:
        with pytest.raises(speech.SynthesisFailed):
            speech.trim_edges(np.zeros(1000, np.int16))

    def test_joining_puts_the_pauses_between(self) -> None:
        piece = np.full(100, 5, np.int16)
        assert len(speech.join([piece, piece, piece], [0.5, 0.25])) == 300 + 12_000


class TestTargets:
    def test_free_target_announces_the_language_and_forced_one_does_not(self) -> None:
        assert target_text("English", "A boy.", forced=False) == "language English<asr_text>A boy."
        assert target_text("English", "A boy.", forced=True) == "A boy."

    def test_no_speech_gives_none_and_no_text(self) -> None:
        assert target_text("None", "", forced=False) == "language None<asr_text>"
        assert target_text("None", "", forced=True) == ""

    def test_prompt_is_the_specified_text(self, tokenizer: tokenizers.Tokenizer) -> None:
        prompt = Prompt.of(tokenizer, speech.LANGUAGES)
        ids = [*prompt.head, *prompt.middle, prompt.audio_pad, *prompt.tail, *prompt.announcements["Spanish"]]
        assert tokenizer.decode(ids, skip_special_tokens=False) == (
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n"
            "<|im_start|>assistant\nlanguage Spanish<asr_text>"
        )

    def test_parts_encoded_apart_equal_the_whole_prompt(self, tokenizer: tokenizers.Tokenizer) -> None:
        prompt = Prompt.of(tokenizer, speech.LANGUAGES)
        apart = [*prompt.head, *tokenizer.encode("Boy, niño").ids, *prompt.middle, *prompt.tail]
        apart += prompt.announcements["English"]
        whole = "<|im_start|>system\nBoy, niño<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_end|><|im_end|>\n"
        assert apart == tokenizer.encode(whole + "<|im_start|>assistant\nlanguage English<asr_text>").ids


class TestTokenizer:
    def test_ids_end_with_the_added_tokens_in_qwens_order(self, tokenizer: tokenizers.Tokenizer) -> None:
        size = tokenizer.get_vocab_size()
        ids = [tokenizer.token_to_id(token) for token, _ in ADDED_TOKENS]
        assert ids == list(range(size - len(ADDED_TOKENS), size))
        assert len(ADDED_TOKENS) == 63
        assert ADDED_TOKENS[-2:] == (("<asr_text>", False), ("<timestamp>", False))

    def test_text_survives_and_is_composed_first(self, tokenizer: tokenizers.Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode("Ñandú 東京 🙂 it's").ids) == "Ñandú 東京 🙂 it's"
        assert tokenizer.encode("nin\u0303o").ids == tokenizer.encode("niño").ids

    def test_files_rebuild_the_same_tokenizer(
        self, tokenizer: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("tokenizer")
        write_tokenizer(tokenizer, folder)
        model = tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        rebuilt = tokenizers.Tokenizer(model)
        rebuilt.normalizer, rebuilt.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
        assert (
            rebuilt.encode("El niño reads it's book").ids == tokenizer.encode("El niño reads it's book").ids
        )
        added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
        assert {entry["content"]: entry["special"] for entry in added.values()} == dict(ADDED_TOKENS)


class TestExport:
    def test_config_has_the_official_fields_and_both_quantization_entries(self) -> None:
        config = checkpoint_files.checkpoint_config(SIZES, IDS, "float16", quantized=True)
        assert config["support_languages"] == ["English", "Spanish"]
        assert config["quantization"] == config["quantization_config"]
        assert config["quantization"] == {"group_size": 64, "bits": 8, "mode": "affine"}
        audio, text = (config["thinker_config"][part] for part in ("audio_config", "text_config"))
        assert (audio["d_model"], audio["encoder_layers"], audio["output_dim"], audio["n_window"]) == (
            256,
            6,
            256,
            50,
        )
        assert text["head_dim"] == 128
        assert text["tie_word_embeddings"] is True
        assert text["rope_scaling"]["mrope_section"] == [24, 20, 20]
        assert config["thinker_config"]["audio_token_id"] == 7
        assert "quantization" not in checkpoint_files.checkpoint_config(
            SIZES, IDS, "float32", quantized=False
        )

    def test_quantized_layout_stands_for_nearly_the_same_weights(self) -> None:
        mx = pytest.importorskip("mlx.core", reason="mlx does the quantizing")
        rng = np.random.default_rng(0)
        weights = {
            "thinker.audio_tower.conv2d2.weight": rng.normal(size=(8, 4, 3, 3)),
            "thinker.audio_tower.conv_out.weight": rng.normal(size=(16, 128)),
            "thinker.audio_tower.layers.0.fc1.bias": rng.normal(size=16),
            "thinker.model.embed_tokens.weight": rng.normal(size=(24, 64)),
            "thinker.lm_head.weight": rng.normal(size=(24, 64)),
        }
        packed = export.mlx_layout(
            {name: mx.array(w.astype(np.float32)) for name, w in weights.items()}, True
        )
        assert packed["audio_tower.conv2d2.weight"].shape == (8, 3, 3, 4)
        assert packed["audio_tower.conv_out.weight"].shape == (16, 32)
        assert packed["model.embed_tokens.scales"].shape == (24, 1)
        assert not any(name.startswith(("thinker.", "lm_head")) for name in packed)
        back = export.dequantized(packed)
        assert set(back) == set(weights) - {"thinker.lm_head.weight"}
        for name, tensor in back.items():
            assert np.abs(np.asarray(tensor) - weights[name]).max() < 0.03


class TestShippedModel:
    def test_its_weights_can_be_written_as_floats_to_train_on_from(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        mx = pytest.importorskip("mlx.core", reason="mlx does the quantizing")
        folder = tmp_path_factory.mktemp("floats")
        export.export(demo_model_path(), folder, layout="thinker", dtype="float32")
        assert checkpoint_files.read_sizes(folder) == SIZES
        written = mx.load(str(folder / "model.safetensors"))
        assert written["thinker.model.embed_tokens.weight"].shape == (4096, 256)
        assert written["thinker.audio_tower.conv2d1.weight"].shape == (64, 1, 3, 3)
        again = export.mlx_layout(written, quantize=True)
        shipped = mx.load(str(demo_model_path() / "model.safetensors"))
        assert set(again) == set(shipped)

    def test_folder_is_complete_and_small(self) -> None:
        names = {path.name for path in demo_model_path().iterdir()}
        assert {
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "generation_config.json",
        } <= names
        assert set(export.TOKENIZER_FILES) <= names
        assert sum(path.stat().st_size for path in demo_model_path().iterdir()) <= 12_000_000

    def test_it_says_which_languages_it_speaks(self) -> None:
        config = json.loads((demo_model_path() / "config.json").read_text())
        assert (
            config["support_languages"]
            == list(speech.LANGUAGES)
            == list(checkpoint_files.SUPPORTED_LANGUAGES)
        )

    def test_tensor_names_and_shapes_follow_from_the_config(self) -> None:
        raw = (demo_model_path() / "model.safetensors").read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        config = json.loads((demo_model_path() / "config.json").read_text())["thinker_config"]
        text, audio = config["text_config"], config["audio_config"]
        shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        assert shapes["model.embed_tokens.weight"] == [text["vocab_size"], text["hidden_size"] // 4]
        assert shapes["audio_tower.conv2d1.weight"] == [audio["downsample_hidden_size"], 3, 3, 1]
        for layer in range(text["num_hidden_layers"]):
            assert shapes[f"model.layers.{layer}.self_attn.q_norm.weight"] == [text["head_dim"]]
        quantized = {name.removesuffix(".scales") for name in shapes if name.endswith(".scales")}
        for base in quantized:
            assert header[f"{base}.weight"]["dtype"] == "U32"
        assert len(quantized) == 1 + 7 * text["num_hidden_layers"] + 6 * audio["encoder_layers"] + 3

    def test_tokenizer_and_config_agree(self) -> None:
        tokenizer = tokenizers.Tokenizer.from_file(str(demo_model_path() / "tokenizer.json"))
        config = json.loads((demo_model_path() / "config.json").read_text())["thinker_config"]
        assert tokenizer.get_vocab_size() == config["text_config"]["vocab_size"]
        assert tokenizer.token_to_id("<|audio_pad|>") == config["audio_token_id"]

    def test_card_names_its_limits(self) -> None:
        card = " ".join(model_card_path().read_text(encoding="utf-8").lower().split())
        for phrase in ("synthetic", "real human speech", "gibberish", "not a product", "english and spanish"):
            assert phrase in card

    def test_recordings_are_short_16_khz_and_have_their_words(self) -> None:
        recordings = sample_recordings()
        assert [recording.language for recording in recordings] == ["English", "Spanish"]
        for recording in recordings:
            assert recording.path.stat().st_size < 300_000
            assert len(recording.reference.split()) >= 8
            with wave.open(str(recording.path)) as sound:
                assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
                assert 3 <= sound.getnframes() / 16_000 <= 9
