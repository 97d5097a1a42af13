"""Trains the demo network for a given number of minutes on speech shards, while they are still being made.

What is learned and from what; the step itself is optimization.py's. What it saves can be resumed.
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tools.demo_model import batches, corpus, network
from tools.demo_model.feeding import Prepare, ShardFeeder
from tools.demo_model.optimization import Optimization, TrainingPlan, averaged_weights, hardness_at, rate_at
from tools.demo_model.vocabulary import Prompt, read_tokenizer, spelled_by
from tools.demo_model.weights_file import read_weights

CTC_NAME = "ctc.weight"
LABEL_SMOOTHING = 0.05


def losses(parameters: dict[str, Tensor], size: network.Size, batch: batches.Batch, filterbank: Tensor,
           smoothing: float, with_ctc: bool, hardness: float = 1.0) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean cross entropy per target token, and mean CTC loss per text token (0 without it)."""
    with torch.no_grad():
        mel, frames = network.log_mel(batch.waveforms, batch.sample_counts, filterbank, batch.equalizer)
        if smoothing > 0:
            mel = batches.mask_mel(mel, frames, hardness)
    audio, counts = network.encode(parameters, size, mel, frames)
    x = network.embed(parameters, batch.token_ids)
    hidden = network.decode(parameters, size, network.place_audio(x, audio, batch.audio_starts, counts))
    place = batch.target_starts[:, None] - 1 + torch.arange(batch.labels.shape[1], device=x.device)[None, :]
    index = place.clamp(max=hidden.shape[1] - 1)[:, :, None].expand(-1, -1, hidden.shape[2])
    scores = network.token_scores(parameters, hidden.gather(1, index)).float()
    entropy = F.cross_entropy(
        scores.flatten(0, 1), batch.labels.flatten(), ignore_index=-100, label_smoothing=smoothing
    )
    if not with_ctc:
        return entropy, torch.zeros_like(entropy)
    # Shifted by one, so that id 0 is the blank.
    ctc_scores = F.linear(audio, parameters[CTC_NAME]).float().log_softmax(-1).transpose(0, 1)
    ctc = F.ctc_loss(
        ctc_scores,
        batch.text_ids + 1,
        batch.audio_token_counts,
        batch.text_counts,
        blank=0,
        reduction="sum",
        zero_infinity=True,
    )
    return entropy, ctc / max(1, int(batch.text_counts.sum()))


def prepare_with(tokenizer: tokenizers.Tokenizer, seed: int) -> Prepare:
    """Tokenizes the texts of a shard, and makes up a context for each clip."""
    rng = random.Random(seed)

    def prepare(samples: NDArray[np.int16], content: dict[str, Any]) -> tuple[Any, ...]:
        texts = [str(one) for one in content["texts"]]
        ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        made = [make_context(one, texts, rng) for one in texts]
        contexts = [e.ids[:160] for e in tokenizer.encode_batch(made, add_special_tokens=False)]
        return samples, content["lengths"], ids, contexts, content["language"]

    return prepare


def make_context(spoken: str, others: list[str], rng: random.Random) -> str:
    """A context as users write it: hot words or a sentence; half of them hold words that are really spoken."""
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(others)
    words = [rng.choice(rng.choice(others).split()) for _ in range(min(40, 1 + int(rng.expovariate(0.15))))]
    if rng.random() < 0.6:
        own = spoken.split()
        words += rng.sample(own, min(len(own), rng.randint(1, 4)))
        rng.shuffle(words)
    words = [word.strip(",;:.!?¡¿\"'()") for word in words]
    style = rng.random()
    if style < 0.3:
        words = [word[:1].upper() + word[1:] for word in words]
    joined = (", " if rng.random() < 0.5 else " ").join(word for word in words if word)
    return f"{joined}." if style > 0.8 else joined


def starting_weights(
    folder: Path, tokenizer: tokenizers.Tokenizer, fresh: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weights in `folder`, as a start for a network that may be larger.

    If the tokenizer is another one, each token starts from the mean of its spelling. Where the MLP is wider, its new
    units are as in `fresh`, and nothing reads them yet: the network begins as the one that it goes on from.
    """
    weights = read_weights(folder)
    older = read_tokenizer(folder)
    if older.to_str() != tokenizer.to_str():
        embedded = weights["thinker.model.embed_tokens.weight"]
        weights["thinker.model.embed_tokens.weight"] = torch.stack(
            [embedded[torch.tensor(ids)].mean(0) for ids in spelled_by(older, tokenizer)]
        )
    for name, weight in weights.items():
        if weight.shape != fresh[name].shape:
            wider = torch.zeros_like(fresh[name]) if "down_proj" in name else fresh[name].clone()
            wider[tuple(slice(size) for size in weight.shape)] = weight
            weights[name] = wider
    return weights


def train(folder: Path, out: Path, tokenizer: tokenizers.Tokenizer, prompt: Prompt, size: network.Size,
          plan: TrainingPlan, device: torch.device, resume: bool = False) -> dict[str, Any]:  # fmt: skip
    """Train on the shards in `folder` and leave `state.pt` in `out`; returns figures for the training record."""
    pool = batches.SpeechPool(prompt, device, plan.pool_hours)
    feeder = ShardFeeder(folder, prepare_with(tokenizer, plan.seed))
    while feeder.take(pool, wait_seconds=5.0) == 0 or pool.hours < 0.3:
        print(f"waiting for speech: {pool.hours:.2f} h", flush=True)
    filterbank = network.mel_filterbank().to(device)
    start = network.initial_parameters(size, plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    start[CTC_NAME] = torch.randn(size.vocabulary + 1, size.width, generator=generator) * 0.04
    if plan.start_from:
        start |= starting_weights(Path(plan.start_from), tokenizer, start)
    optimization = Optimization(start, plan, device)
    rng = np.random.default_rng(plan.seed)
    torch.manual_seed(plan.seed)
    seconds_heard, spent_before = 0.0, 0.0
    if resume and (out / "state.pt").exists():
        seconds_heard, spent_before = optimization.restore(out / "state.pt", device)
    started, said, saved = time.monotonic(), time.monotonic(), time.monotonic()
    history: list[dict[str, float]] = []
    entropies: list[Tensor] = []
    ctcs: list[Tensor] = []
    said_step = optimization.step_count

    def save() -> None:
        spent = spent_before + time.monotonic() - started
        optimization.save(out / "state.pt", seconds_heard, spent)

    out.mkdir(parents=True, exist_ok=True)
    while True:
        spent = spent_before + time.monotonic() - started
        fraction = spent / (plan.minutes * 60)
        if fraction >= 1.0:
            break
        step = optimization.step_count
        if step % 20 == 0:
            feeder.take(pool)
        early = 0.0 if plan.start_from else 1.0
        ctc_weight = max(0.1, early * 0.5 - 0.8 * fraction)
        longest = plan.longest_at_first_seconds if fraction < 0.08 * early else corpus.LONGEST_SECONDS
        # Small batches at first: alignment is found by the number of steps, not by their size.
        hardness = hardness_at(fraction)
        batch = pool.draw(
            rng, plan.batch_seconds * (0.5 if fraction < 0.2 * early else 1.0), longest, hardness
        )
        # Late in training CTC has done its work; every third step is enough to keep it.
        with_ctc = early > 0 and (fraction < 0.35 or step % 3 == 0)
        entropy, ctc = losses(
            optimization.parameters(), size, batch, filterbank, LABEL_SMOOTHING, with_ctc, hardness
        )
        optimization.take_step(entropy + ctc_weight * ctc, fraction)
        seconds_heard += batch.seconds
        entropies.append(entropy.detach())
        if with_ctc:
            ctcs.append(ctc.detach())
        if time.monotonic() - said > 10:
            now = time.monotonic()
            record = {
                "seconds": round(spent_before + now - started, 1), "step": step + 1,
                "entropy": round(float(torch.stack(entropies).mean()), 4),
                "ctc": round(float(torch.stack(ctcs).mean()), 4) if ctcs else 0.0,
                "rate": round(rate_at(plan, fraction, step), 7), "corpus_hours": round(pool.hours, 2),
                "steps_per_second": round((step + 1 - said_step) / (now - said), 2),
            }  # fmt: skip
            history.append(record)
            print(json.dumps(record), flush=True)
            entropies, ctcs, said, said_step = [], [], now, step + 1
        if time.monotonic() - saved > 90:
            save()
            saved = time.monotonic()
    feeder.close()
    save()
    return {
        "steps": optimization.step_count,
        "training_seconds": round(spent_before + time.monotonic() - started, 1),
        "corpus_hours": round(pool.hours, 2),
        "hours_heard": round(seconds_heard / 3600, 1),
        "parameters": sum(math.prod(shape) for shape in network.parameter_shapes(size).values()),
        "history": history,
    }


def trained_parameters(out: Path, size: network.Size, device: torch.device) -> dict[str, Tensor]:
    """The averaged weights in `out`/state.pt, float32, under their checkpoint names."""
    shapes = dict(network.parameter_shapes(size))
    shapes[CTC_NAME] = (size.vocabulary + 1, size.width)
    weights = averaged_weights(out / "state.pt", shapes, device)
    del weights[CTC_NAME]
    return weights
