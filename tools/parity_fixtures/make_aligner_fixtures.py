"""Make the forced aligner's reference figures with PyTorch, and its words with the official splitter.

In the virtual environments of make_fixtures.py, from the repository's root:

    native/bin/python -m tools.parity_fixtures.make_aligner_fixtures native
    official/bin/python -m tools.parity_fixtures.make_aligner_fixtures official
    official/bin/pip install nagisa soynlp
    official/bin/python -m tools.parity_fixtures.make_aligner_fixtures words
    official/bin/python -m tools.parity_fixtures.make_aligner_fixtures times

`native` and `official` give the logits of every timestamp token, one clip a call; weights, clips and prompts are made
from their names, so a sample of each result is stored. `words` records how the official package splits some texts of
every language that the published aligner knows, and the prompts that it makes of them. `times` runs its aligner as a
whole: samples and text in, words with times out.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import clips, random_model
from tests.fakes.clips import CLIPS_BY_NAME
from tests.fakes.random_model import ALIGNER, ALL_ALIGNERS, OTHER_ALIGNER, Sizes
from tools.parity_fixtures.aligner_texts import TEXTS
from tools.parity_fixtures.make_fixtures import (
    FIXTURES,
    apply_windows,
    check_complete,
    import_official,
    sample_indices,
)

CLIPS_OF = {
    ALIGNER.name: ("0.3s", "1.0s", "2.5s-odd", "8.1s-odd", "31s", "95s"),
    OTHER_ALIGNER.name: ("0.3s", "2.5s-odd", "8.1s"),
}
STORED_COLUMNS = 64

Array = NDArray[Any]
Logits = Callable[[list[int], Array], Array]
"""ids with audio pads, log-mel (frames, 128) -> (ids, classes)."""


def record(clip_name: str, sizes: Sizes, mel: Array, logits_of: Logits) -> dict[str, Array]:
    """Fixture arrays of one clip: the logits at its timestamp tokens."""
    ids = random_model.aligner_ids(sizes, clip_name, CLIPS_BY_NAME[clip_name].token_count)
    places = [place for place, one in enumerate(ids) if one == random_model.TOKEN_IDS["<timestamp>"]]
    logits = logits_of(ids, mel)[places].astype(np.float64)
    assert logits.shape[1] == sizes.classify_num
    columns = sample_indices(f"columns/{sizes.name}", logits.shape[1], STORED_COLUMNS, [])
    best = np.sort(logits, axis=-1)
    margins = (best[:, -1] - best[:, -2]) / np.linalg.norm(logits, axis=-1)
    classes = logits.argmax(axis=-1).astype(np.int32)
    print(
        f"  {sizes.name:14} {clip_name:9} {len(places):4} marks, {len(set(classes.tolist()))} distinct classes, "
        f"smallest relative margin {margins.min():.1e}",
        flush=True,
    )
    return {
        "column_index": columns,
        "logits": logits[:, columns].astype(np.float32),
        "logit_norm": np.linalg.norm(logits, axis=-1),
        "log_sum_exp": np.log(np.exp(logits).sum(axis=-1)),
        "classes": classes,
        "margin": margins.astype(np.float32),
    }


def record_all(
    target: str,
    packages: list[str],
    mel_of: Callable[[Array], Array],
    load: Callable[[Sizes], Logits],
    wanted: Callable[[str], bool],
) -> None:
    """One reference's figures of both aligners."""
    arrays: dict[str, Array] = {}
    checksums: dict[str, int] = {}
    for sizes in ALL_ALIGNERS.values():
        logits_of = load(sizes)
        checksums[sizes.name] = random_model.checksum(random_model.make_weights(sizes))
        for name in filter(wanted, CLIPS_OF[sizes.name]):
            mel = mel_of(clips.make_clip(CLIPS_BY_NAME[name]))
            recorded = record(name, sizes, mel, logits_of)
            arrays |= {f"{sizes.name}/{name}/{key}": value for key, value in recorded.items()}
    about = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: version(package) for package in ("numpy", *packages)},
        "checksums": checksums,
    }
    np.savez_compressed(FIXTURES / target, about=np.array(json.dumps(about)), **arrays)
    print(f"{target}: {(FIXTURES / target).stat().st_size / 1e6:.2f} MB")


def make_native() -> None:
    """transformers' own Qwen3ASRForTokenClassification on the -hf layout, for clips of a second and more."""
    import torch
    from transformers import Qwen3ASRFeatureExtractor
    from transformers.models.qwen3_asr.modeling_qwen3_asr import Qwen3ASRForTokenClassification

    extractor = Qwen3ASRFeatureExtractor()

    def mel_of(samples: Array) -> Array:
        made = extractor(
            samples,
            sampling_rate=clips.SAMPLE_RATE,
            padding=True,
            truncation=False,
            return_attention_mask=True,
        )
        return made["input_features"][0, :, : int(made["attention_mask"].sum())].T.numpy()

    def load(sizes: Sizes) -> Logits:
        with tempfile.TemporaryDirectory() as folder:
            path = random_model.write_checkpoint(Path(folder), sizes, "hf")
            model, report = Qwen3ASRForTokenClassification.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True
            )
        check_complete(report)
        model.eval()

        @torch.no_grad()
        def logits_of(ids: list[int], mel: Array) -> Array:
            width = -(-len(mel) // 100) * 100
            padded = np.zeros((1, 128, width), dtype=np.float32)
            padded[0, :, : len(mel)] = mel.T
            mask = np.zeros((1, width), dtype=np.int64)
            mask[0, : len(mel)] = 1
            return (
                model(
                    input_ids=torch.tensor([ids]),
                    input_features=torch.from_numpy(padded),
                    input_features_mask=torch.from_numpy(mask),
                )
                .logits[0]
                .numpy()
            )

        return logits_of

    record_all(
        "aligner-native.npz",
        ["torch", "transformers"],
        mel_of,
        load,
        lambda name: CLIPS_BY_NAME[name].frame_count >= 100,
    )


def make_official() -> None:
    """Qwen's package with the encoder's windows applied, on the original layout."""
    import torch
    from transformers import WhisperFeatureExtractor

    import_official()
    from qwen_asr.core.transformers_backend import Qwen3ASRForConditionalGeneration, modeling_qwen3_asr

    apply_windows(modeling_qwen3_asr)
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)

    def mel_of(samples: Array) -> Array:
        made = extractor(
            samples,
            sampling_rate=clips.SAMPLE_RATE,
            padding=True,
            truncation=False,
            return_attention_mask=True,
            return_tensors="np",
        )
        return made["input_features"][0][:, : int(made["attention_mask"].sum())].T

    def load(sizes: Sizes) -> Logits:
        with tempfile.TemporaryDirectory() as folder:
            path = random_model.write_checkpoint(Path(folder), sizes, "thinker")
            whole, report = Qwen3ASRForConditionalGeneration.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True
            )
        check_complete(report)
        model = whole.eval().thinker

        @torch.no_grad()
        def logits_of(ids: list[int], mel: Array) -> Array:
            model.rope_deltas = None
            return (
                model(
                    input_ids=torch.tensor([ids]),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    input_features=torch.from_numpy(np.ascontiguousarray(mel.T[None])),
                    feature_attention_mask=torch.ones(1, len(mel), dtype=torch.long),
                )
                .logits[0]
                .numpy()
            )

        return logits_of

    packages = ["torch", "transformers", "qwen-asr"]
    record_all("aligner-official.npz", packages, mel_of, load, lambda name: True)


def make_words() -> None:
    """The official package's split of texts into the words that it aligns."""
    import_official()
    from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForceAlignProcessor

    splitter = Qwen3ForceAlignProcessor()
    recorded = []
    for language, texts in TEXTS.items():
        for text in texts:
            words, prompt = splitter.encode_timestamp(text, language)
            recorded.append({"language": language, "text": text, "words": words, "prompt": prompt})
    made_with = {name: version(name) for name in ("qwen-asr", "nagisa", "soynlp")}
    content = {"about": made_with, "texts": recorded}
    target = FIXTURES / "aligner_words.json"
    target.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{target.name}: {len(recorded)} texts")


TIMED = (
    ("2.5s-odd", "English"),
    ("8.1s-odd", "English"),
    ("8.1s", "German"),
    ("7.9s", "Chinese"),
    ("2.5s", "Spanish"),
)


def make_times() -> None:
    """Words with times, by Qwen3ForcedAligner.align from beginning to end, with the encoder's windows applied."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import Qwen2TokenizerFast, WhisperFeatureExtractor

    import_official()
    from qwen_asr.core.transformers_backend import (
        Qwen3ASRForConditionalGeneration,
        Qwen3ASRProcessor,
        modeling_qwen3_asr,
    )
    from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForceAlignProcessor, Qwen3ForcedAligner

    apply_windows(modeling_qwen3_asr)
    with tempfile.TemporaryDirectory() as name:
        folder = random_model.write_checkpoint(Path(name), ALIGNER, "thinker")
        model = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        # The 256 bytes, fillers, and the control tokens at the ids that the random models know.
        names = {number: f"<unused{number}>" for number in range(256, 298)}
        names |= {number: control for control, number in random_model.TOKEN_IDS.items()}
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        (folder / "vocab.json").write_text(json.dumps({one: place for place, one in enumerate(alphabet)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = Qwen2TokenizerFast(
            vocab_file=str(folder / "vocab.json"),
            merges_file=str(folder / "merges.txt"),
            unk_token=None,
            eos_token=None,
            pad_token=None,
        )
    tokenizer.add_tokens([names[number] for number in sorted(names)], special_tokens=True)
    for control, number in random_model.TOKEN_IDS.items():
        assert tokenizer.convert_tokens_to_ids(control) == number, control
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.audio_token = "<|audio_pad|>"
    tokenizer.audio_bos_token = "<|audio_start|>"
    tokenizer.audio_eos_token = "<|audio_end|>"
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    aligner = Qwen3ForcedAligner(
        model=model,
        processor=Qwen3ASRProcessor(feature_extractor=extractor, tokenizer=tokenizer),
        aligner_processor=Qwen3ForceAlignProcessor(),
    )
    recorded = []
    for clip, language in TIMED:
        text = " ".join(TEXTS[language])
        samples = clips.make_clip(CLIPS_BY_NAME[clip])
        model.thinker.rope_deltas = None
        [found] = aligner.align((samples, clips.SAMPLE_RATE), text, language)
        items = [[one.text, one.start_time, one.end_time] for one in found.items]
        recorded.append({"clip": clip, "language": language, "text": text, "items": items})
        distinct = len({time for _, *times in items for time in times})
        print(f"  {clip:9} {language:8} {len(items)} words, {distinct} distinct times")
    about = {name: version(name) for name in ("qwen-asr", "torch", "transformers")}
    target = FIXTURES / "aligner_times.json"
    content = {"about": about, "timed": recorded}
    target.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and make one set of fixtures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = {"native": make_native, "official": make_official, "words": make_words, "times": make_times}
    parser.add_argument("reference", choices=commands)
    commands[parser.parse_args().reference]()


if __name__ == "__main__":
    main()
