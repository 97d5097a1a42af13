"""Distances of the trained network's word borders from the true ones, on sentences and a voice it never heard.

The figures that the project publishes come from tools/eval, through the shipped engine. This runs beside the training,
in batches, on the same device, on classes as they come: no order between words is enforced.
"""

from __future__ import annotations

import math
import multiprocessing
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch

from tools.demo_model import network, speech
from tools.demo_model.alignment.batches import SEGMENT_SECONDS, AlignerPrompt, TimedTokens, timed_tokens
from tools.demo_model.alignment.timed_speech import TimedSpeaker, TimedSpeech, joined, surrounded
from tools.demo_model.alignment.train import listen, time_scores

BATCH = 32


@dataclass(frozen=True)
class TimedCase:
    """One clip to judge, the group its figure belongs to, and its voice."""

    sound: TimedSpeech
    language: str
    group: str
    voice: str


_speakers: list[TimedSpeaker] = []


def _make_case(job: tuple[str, str, tuple[str, ...], int, Path | None]) -> TimedCase | None:
    group, language, lines, seed, archive = job
    if not _speakers:
        # One per process of the pool, for all its clips.
        programs = speech.Programs.unpacked(archive) if archive else speech.Programs.installed()
        _speakers.append(TimedSpeaker(programs))
    rng = random.Random(f"{group} {language} {seed}")
    draw = speech.held_out_voice if group == "held-out" else speech.training_voice
    voice = draw(language, rng)
    try:
        pieces = [_speakers[0].speak(line, voice) for line in lines]
    except speech.SynthesisFailed:
        return None
    sound = joined(pieces, [rng.uniform(0.2, 0.8) for _ in pieces[1:]])
    before, after = (round(rng.uniform(0.05, 0.6) * speech.SAMPLE_RATE) for _ in range(2))
    sound = surrounded(sound, before, after)
    seconds = len(sound.samples) / speech.SAMPLE_RATE
    return TimedCase(sound, language, group, voice.label) if seconds <= 30 else None


def timed_cases(
    sentences: dict[str, list[str]], archive: Path | None, workers: int, count: int
) -> list[TimedCase]:
    """About `count` short clips a language, half as many by the held-out voice, a third as many long ones."""
    rng = random.Random(6)
    jobs = []
    for language, lines in sentences.items():
        for group, wanted, joined_lines in (
            ("short", count, 1),
            ("held-out", count // 2, 1),
            ("long", count // 3, 4),
        ):
            jobs += [
                (group, language, tuple(rng.choices(lines, k=joined_lines)), seed, archive)
                for seed in range(wanted)
            ]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        made = pool.map(_make_case, jobs, chunksize=4)
    return [case for case in made if case is not None]


def judge(
    parameters: network.Parameters,
    size: network.Size,
    tokenizer: tokenizers.Tokenizer,
    cases: Sequence[TimedCase],
    device: torch.device,
) -> dict[str, Any]:
    """Median and 95th percentile of the distance from the true border in milliseconds, per group and engine."""
    prompt = AlignerPrompt.of(tokenizer)
    filterbank = network.mel_filterbank().to(device)
    order = sorted(range(len(cases)), key=lambda i: len(cases[i].sound.samples))
    single = sum(len(case.sound.samples) <= speech.SAMPLE_RATE for case in cases)
    # Clips of one chunk keep their own width only among themselves (network.encode).
    parts = [order[start : min(start + BATCH, single)] for start in range(0, single, BATCH)]
    parts += [order[start : start + BATCH] for start in range(single, len(order), BATCH)]
    distances: dict[str, list[float]] = {}
    with torch.no_grad():
        for chosen in parts:
            rows = [cases[i] for i in chosen]
            texts = [_tokens(case, tokenizer, prompt) for case in rows]
            for case, text, classes in zip(
                rows, texts, _classes(parameters, size, rows, texts, prompt, filterbank, device), strict=True
            ):
                found = [
                    abs(number * SEGMENT_SECONDS - true) * 1000
                    for number, true in zip(classes, text.seconds, strict=True)
                    if not math.isnan(true)
                ]
                engine = case.voice.partition(":")[0]
                for key in (f"{case.group} {case.language}", f"{case.language} {engine}", case.language):
                    distances.setdefault(key, []).extend(found)
    return {
        key: {
            "borders": len(values),
            "median_ms": round(float(np.median(values)), 1),
            "p95_ms": round(float(np.percentile(values, 95)), 1),
            "mean_ms": round(float(np.mean(values)), 1),
            "over_200_ms": round(float(np.mean(np.asarray(values) > 200)), 5),
        }
        for key, values in sorted(distances.items())
    }


def _tokens(case: TimedCase, tokenizer: tokenizers.Tokenizer, prompt: AlignerPrompt) -> TimedTokens:
    words = case.sound.words
    ids = tokenizer.encode_batch([word.text for word in words], add_special_tokens=False)
    return timed_tokens(
        [(e.ids, w.start_seconds, w.end_seconds) for e, w in zip(ids, words, strict=True)], prompt
    )


def _classes(
    parameters: network.Parameters,
    size: network.Size,
    cases: Sequence[TimedCase],
    texts: Sequence[TimedTokens],
    prompt: AlignerPrompt,
    filterbank: torch.Tensor,
    device: torch.device,
) -> list[list[int]]:
    counts = torch.tensor([len(case.sound.samples) for case in cases])
    waveforms = torch.zeros(len(cases), int(counts.max()))
    for row, case in enumerate(cases):
        waveforms[row, : counts[row]] = torch.from_numpy(case.sound.samples.astype(np.float32) / 32768.0)
    mel, frames = network.log_mel(waveforms.to(device), counts.to(device), filterbank)
    audio = network.audio_token_counts(frames).tolist()
    rows = [
        [prompt.audio_start, *[prompt.audio_pad] * count, prompt.audio_end, *text.ids]
        for count, text in zip(audio, texts, strict=True)
    ]
    ids = torch.full((len(rows), max(map(len, rows))), prompt.audio_pad)
    places = torch.zeros((len(rows), max(len(text.places) for text in texts)), dtype=torch.int64)
    for number, (line, count, text) in enumerate(zip(rows, audio, texts, strict=True)):
        ids[number, : len(line)] = torch.tensor(line)
        places[number, : len(text.places)] = torch.tensor(text.places) + 2 + count
    heard = listen(parameters, size, mel, frames, ids.to(device))
    scores = time_scores(parameters, heard, places.to(device))
    best = scores.argmax(-1).tolist()
    return [classes[: len(text.places)] for classes, text in zip(best, texts, strict=True)]
