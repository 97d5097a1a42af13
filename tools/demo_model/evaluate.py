"""Greedy decoding of the training network and word error rates on speech it never heard: shows what is weak.

The figures that the project publishes come from tools/eval, through the shipped engine. This runs beside the training,
in batches, on the same device.
"""

from __future__ import annotations

import multiprocessing
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.demo_model import batches, network, speech
from tools.demo_model.vocabulary import Prompt


@dataclass(frozen=True)
class Case:
    """One clip to judge: samples (n,) int16, what is said (empty for none), the group its figure belongs to."""

    samples: NDArray[np.int16]
    text: str
    language: str
    group: str
    voice: str
    context: str = ""
    forced: bool = False


def fold(text: str) -> list[str]:
    """Words without case, punctuation or accents of composition; apostrophes inside words stay."""
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    return [word for part in re.split(r"[^\w']+", text) if (word := part.strip("'_"))]


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Edits between the folded word lists, and the number of reference words."""
    wanted, got = fold(reference), fold(hypothesis)
    row = list(range(len(got) + 1))
    for i, word in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1], len(wanted)


def _make_case(job: tuple[str, str, str, int, Path | None]) -> Case | None:
    group, language, text, seed, archive = job
    programs = speech.Programs.unpacked(archive) if archive else speech.Programs.installed()
    rng = random.Random(f"{group} {language} {seed}")
    voice = (
        speech.held_out_voice(language, rng) if "held-out" in group else speech.training_voice(language, rng)
    )
    try:
        if "long" in group and rng.random() < 0.5:
            pieces = [speech.synthesize(one, voice, programs) for one in text.split("\n")]
            samples = speech.join(pieces, [rng.uniform(0.2, 0.8) for _ in pieces[1:]])
        else:
            samples = speech.synthesize(text.replace("\n", " "), voice, programs)
    except speech.SynthesisFailed:
        return None
    seconds = len(samples) / speech.SAMPLE_RATE
    if not ((15 <= seconds <= 30) if "long" in group else seconds <= 8):
        return None
    return Case(samples, text.replace("\n", " "), language, group, voice.label)


def speech_cases(
    sentences: dict[str, list[str]],
    archive: Path | None,
    workers: int,
    short: int = 300,
    long: int = 100,
    held: int = 150,
) -> list[Case]:
    """Clips of up to 8 s, of 15 to 30 s, and by the held-out voice, for each language."""
    jobs: dict[tuple[str, str], list[tuple[str, str, str, int, Path | None]]] = {}
    rng = random.Random(5)
    for language, lines in sentences.items():
        for group in ("short", "long", "held-out"):
            jobs[group, language] = []
            for seed in range(3 * max(short, long, held)):
                chosen = rng.choices(lines, k=4 if group == "long" else 1)
                jobs[group, language].append((group, language, "\n".join(chosen), seed, archive))
    wanted = {"short": short, "long": long, "held-out": held}
    cases: list[Case] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for (group, _), work in jobs.items():
            found: list[Case] = []
            for start in range(0, len(work), wanted[group]):
                if len(found) < wanted[group]:
                    made = pool.map(_make_case, work[start : start + wanted[group]], chunksize=8)
                    found += [case for case in made if case is not None]
            cases += found[: wanted[group]]
    return cases


def silent_cases(count: int, contexts: Sequence[str]) -> list[Case]:
    """Silence, hum, white and pink noise at all levels, 0.3 to 30 s; every second one under a context full of words."""
    rng = np.random.default_rng(3)
    tracks = batches.noise_tracks(torch.device("cpu"), seconds=31.0, seed=99).numpy()
    cases = []
    for number in range(count):
        length = int(speech.SAMPLE_RATE * 10 ** rng.uniform(np.log10(0.3), np.log10(30)))
        kind, level = number % 4, 10 ** (rng.uniform(-75, -6) / 20)
        track = {0: None, 1: rng.integers(14, 28), 2: rng.integers(0, 4), 3: rng.integers(5, 9)}[kind]
        start = int(rng.integers(0, tracks.shape[1] - length))
        x = np.zeros(length) if track is None else tracks[int(track), start : start + length] * level
        samples = np.clip(np.rint(x * 32768), -32768, 32767).astype(np.int16)
        group = ("silence", "hum", "white", "pink")[kind]
        context = contexts[number % len(contexts)] if (number // 4) % 2 else ""
        cases.append(Case(samples, "", "None", f"negative {group}", group, context, forced=number % 9 == 8))
    return cases


def greedy(parameters: network.Parameters, size: network.Size, tokenizer: tokenizers.Tokenizer, prompt: Prompt,
           cases: Sequence[Case], device: torch.device, most_tokens: int = 256) -> list[str]:  # fmt: skip
    """The model's text for a batch of clips, announcement included (not for forced ones), end token excluded."""
    counts = torch.tensor([len(case.samples) for case in cases])
    waveforms = torch.zeros(len(cases), int(counts.max()))
    for row, case in enumerate(cases):
        waveforms[row, : counts[row]] = torch.from_numpy(case.samples.astype(np.float32) / 32768.0)
    filterbank = network.mel_filterbank().to(device)
    mel, frames = network.log_mel(waveforms.to(device), counts.to(device), filterbank)
    audio, tokens = network.encode(parameters, size, mel, frames)
    rows, starts = [], []
    for case, count in zip(cases, tokens.tolist(), strict=True):
        context = tokenizer.encode(case.context, add_special_tokens=False).ids
        announcement = prompt.announcements["English" if case.language == "None" else case.language]
        before = [*prompt.head, *context, *prompt.middle]
        starts.append(len(before))
        rows.append(
            [*before, *[prompt.audio_pad] * count, *prompt.tail, *(announcement if case.forced else ())]
        )
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = torch.full((len(rows), int(lengths.max())), prompt.pad)
    for number, line in enumerate(rows):
        ids[number, : len(line)] = torch.tensor(line)
    x = network.embed(parameters, ids.to(device))
    x = network.place_audio(x, audio, torch.tensor(starts, device=device), tokens)
    shape = (len(rows), size.kv_heads, ids.shape[1] + most_tokens, size.head_dim)
    cache = network.KeyValueCache(
        [torch.zeros(shape, device=device, dtype=x.dtype) for _ in range(size.layers)],
        [torch.zeros(shape, device=device, dtype=x.dtype) for _ in range(size.layers)],
    )
    hidden = network.decode(parameters, size, x, cache)
    everyone = torch.arange(len(rows), device=device)
    current = network.token_scores(parameters, hidden[everyone, lengths - 1]).argmax(-1)
    written: list[Tensor] = []
    done = torch.zeros(len(rows), dtype=torch.bool, device=device)
    for step in range(most_tokens):
        done = done | (current == prompt.end)
        written.append(torch.where(done, prompt.end, current))
        if step % 8 == 7 and bool(done.all()):
            break
        x = network.embed(parameters, current[:, None])
        hidden = network.decode(parameters, size, x, cache, lengths + step)
        current = network.token_scores(parameters, hidden[:, 0]).argmax(-1)
    lines = torch.stack(written, dim=1).tolist()
    return [
        tokenizer.decode([i for i in line if i != prompt.end], skip_special_tokens=True) for line in lines
    ]


def judge(parameters: network.Parameters, size: network.Size, tokenizer: tokenizers.Tokenizer, prompt: Prompt,
          cases: list[Case], device: torch.device) -> dict[str, Any]:  # fmt: skip
    """Figures per group, language and voice, and the worst clips of each group in words."""
    order = sorted(range(len(cases)), key=lambda i: len(cases[i].samples))
    # Clips of one chunk keep their own width only among themselves (network.encode).
    single = sum(len(case.samples) <= speech.SAMPLE_RATE for case in cases)
    parts = [order[start : min(start + 64, single)] for start in range(0, single, 64)]
    parts += [order[start : start + 64] for start in range(single, len(order), 64)]
    outputs: dict[int, str] = {}
    with torch.no_grad():
        for chosen in parts:
            texts = greedy(parameters, size, tokenizer, prompt, [cases[i] for i in chosen], device)
            outputs.update(zip(chosen, texts, strict=True))
    sums: dict[str, list[int]] = {}
    worst: dict[str, list[tuple[int, str, str]]] = {}
    named = spoken = empty = silent = 0
    for number, case in enumerate(cases):
        head, tag, rest = outputs[number].partition("<asr_text>")
        said, language = (rest if tag else head).strip(), head.removeprefix("language ").strip()
        if case.language == "None":
            silent += 1
            empty += not said and (case.forced or language == "None")
            if said or not (case.forced or language == "None"):
                worst.setdefault(case.group, []).append((1, f"{len(case.samples)} samples", outputs[number]))
            continue
        spoken += 1
        named += case.forced or language == case.language
        errors, words = word_errors(case.text, said)
        for key in (
            f"{case.group} {case.language}",
            f"{case.group} {case.voice.split('+')[0]}",
            f"{case.group} all",
        ):
            total = sums.setdefault(key, [0, 0])
            total[0] += errors
            total[1] += words
        worst.setdefault(f"{case.group} {case.language}", []).append((errors, case.text, said))
    return {
        "word_error_rate": {key: round(e / max(1, w), 4) for key, (e, w) in sorted(sums.items())},
        "language_right": round(named / max(1, spoken), 4),
        "empty_on_no_speech": round(empty / max(1, silent), 4),
        "clips": len(cases),
        "worst": {key: sorted(found, reverse=True)[:6] for key, found in worst.items()},
    }
