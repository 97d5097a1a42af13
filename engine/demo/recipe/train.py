"""Trains the demo network for a given number of minutes on speech shards, while they are still being made.

The step is built to keep a large GPU busy with a small network: all parameters live in two flat tensors (matrices,
with weight decay; vectors, without), so casting, clipping, the optimizer and the average are one kernel each. The rate
follows the clock, not the step count: wherever it runs, it ends cooled down. What it saves can be resumed.
"""

from __future__ import annotations

import json
import math
import queue
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.demo.recipe import batches, corpus, network
from engine.demo.recipe.vocabulary import Prompt, read_tokenizer, spelled_by
from engine.demo.recipe.weights_file import read_weights

CTC_NAME = "ctc.weight"
LABEL_SMOOTHING = 0.05
# For the last part of the time fewer and fewer clips are disturbed: a small network must spend itself on what is said.
EASING_FROM, EASED_HARDNESS = 0.6, 0.3
AVERAGE_EVERY = 5


@dataclass(frozen=True)
class Plan:
    """How to train. batch_seconds: speech in one step; longest_at_first_seconds holds for 8 % of the time."""

    minutes: float
    batch_seconds: float = 1200.0
    peak_rate: float = 1.2e-3
    warmup_steps: int = 500
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    average_decay: float = 0.995
    longest_at_first_seconds: float = 6.0
    pool_hours: float = 400.0
    seed: int = 7
    # Weights to start from. Then nothing has to be aligned, so the gentle beginning and CTC are left out.
    start_from: str = ""


class FlatParameters:
    """Named tensors in two flat float32 tensors: matrices first, vectors second."""

    def __init__(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        self._groups: list[list[tuple[str, torch.Size]]] = [
            [(name, t.shape) for name, t in tensors.items() if (t.ndim > 1) == is_matrix]
            for is_matrix in (True, False)
        ]
        self.flat = [
            torch.cat([tensors[name].reshape(-1) for name, _ in group]).to(device).requires_grad_()
            for group in self._groups
        ]
        self.average = [flat.detach().clone() for flat in self.flat]

    def leaves(self, dtype: torch.dtype) -> list[Tensor]:
        """Copies to differentiate by, in the type that is computed in."""
        return [flat.detach().to(dtype).requires_grad_() for flat in self.flat]

    def named(self, flats: list[Tensor]) -> dict[str, Tensor]:
        """Views of the flat tensors under their names."""
        named: dict[str, Tensor] = {}
        for group, flat in zip(self._groups, flats, strict=True):
            pieces = torch.split(flat, [shape.numel() for _, shape in group])
            named.update(
                {name: piece.view(shape) for (name, shape), piece in zip(group, pieces, strict=True)}
            )
        return named

    def averaged(self) -> dict[str, Tensor]:
        """The running average, float32, without the training-only head."""
        named = self.named([average.clone() for average in self.average])
        return {name: tensor for name, tensor in named.items() if name != CTC_NAME}


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


class ShardFeeder:
    """A thread that tokenizes shards as they appear; the trainer takes them over between steps."""

    def __init__(self, folder: Path, tokenizer: tokenizers.Tokenizer, seed: int) -> None:
        self._folder, self._tokenizer, self._rng = folder, tokenizer, random.Random(seed)
        self._ready: queue.Queue[tuple[Any, ...]] = queue.Queue(maxsize=8)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        seen: set[str] = set()
        while not self._stop.is_set():
            for listing in sorted(self._folder.glob("shard-*.json")):
                if listing.name in seen:
                    continue
                seen.add(listing.name)
                samples, content = corpus.read_shard(listing)
                texts = [str(one) for one in content["texts"]]
                ids = [e.ids for e in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
                contexts = [e.ids[:160] for e in self._tokenizer.encode_batch(
                    [make_context(one, texts, self._rng) for one in texts], add_special_tokens=False)]  # fmt: skip
                shard = (samples, content["lengths"], ids, contexts, content["language"])
                while not self._stop.is_set():
                    try:
                        self._ready.put(shard, timeout=1.0)
                        break
                    except queue.Full:
                        continue
            time.sleep(0.5)

    def take(self, pool: batches.SpeechPool, wait_seconds: float = 0.0) -> int:
        """Move what is ready into the pool; returns how many shards. Waits for the first one if asked to."""
        taken = 0
        while True:
            try:
                shard = (
                    self._ready.get(timeout=wait_seconds)
                    if wait_seconds > 0 and not taken
                    else self._ready.get_nowait()
                )
            except queue.Empty:
                return taken
            if not pool.add(*shard):
                self.close()
                return taken
            taken += 1

    def close(self) -> None:
        """End the thread; what it has not handed over is dropped."""
        self._stop.set()


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


def hardness_at(fraction: float) -> float:
    """Share of the usual disturbances when `fraction` of the time is over."""
    eased = max(0.0, fraction - EASING_FROM) / (1.0 - EASING_FROM)
    return 1.0 - (1.0 - EASED_HARDNESS) * eased


def rate_at(plan: Plan, fraction: float, step: int) -> float:
    """Learning rate when `fraction` of the time is over: linear warm-up by steps, then a cosine by the clock."""
    return (
        plan.peak_rate
        * min(1.0, (step + 1) / plan.warmup_steps)
        * max(0.005, 0.5 * (1 + math.cos(math.pi * fraction)))
    )


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


def train(folder: Path, out: Path, tokenizer: tokenizers.Tokenizer, prompt: Prompt, size: network.Size, plan: Plan,
          device: torch.device, resume: bool = False) -> dict[str, Any]:  # fmt: skip
    """Train on the shards in `folder` and leave `state.pt` in `out`; returns figures for the training record."""
    pool = batches.SpeechPool(prompt, device, plan.pool_hours)
    feeder = ShardFeeder(folder, tokenizer, plan.seed)
    while feeder.take(pool, wait_seconds=5.0) == 0 or pool.hours < 0.3:
        print(f"waiting for speech: {pool.hours:.2f} h", flush=True)
    filterbank = network.mel_filterbank().to(device)
    start = network.initial_parameters(size, plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    start[CTC_NAME] = torch.randn(size.vocabulary + 1, size.width, generator=generator) * 0.04
    if plan.start_from:
        start |= starting_weights(Path(plan.start_from), tokenizer, start)
    flat = FlatParameters(start, device)
    matrices, vectors = flat.flat
    optimizer = torch.optim.AdamW(
        [{"params": [matrices], "weight_decay": plan.weight_decay}, {"params": [vectors], "weight_decay": 0.0}],
        lr=plan.peak_rate, betas=(0.9, 0.98), eps=1e-8, fused=device.type == "cuda",
    )  # fmt: skip
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    # cuDNN's attention plans anew for every length, milliseconds at a time; the other kernels do not.
    torch.backends.cuda.enable_cudnn_sdp(False)
    rng = np.random.default_rng(plan.seed)
    torch.manual_seed(plan.seed)
    step, seconds_heard, spent_before = 0, 0.0, 0.0
    if resume and (out / "state.pt").exists():
        state = torch.load(out / "state.pt", map_location=device, weights_only=True)
        with torch.no_grad():
            for mine, saved in zip(
                (*flat.flat, *flat.average), (*state["flat"], *state["average"]), strict=True
            ):
                mine.copy_(saved)
        optimizer.load_state_dict(state["optimizer"])
        step, seconds_heard, spent_before = state["step"], state["seconds_heard"], state["spent_seconds"]
    started, said, saved = time.monotonic(), time.monotonic(), time.monotonic()
    history: list[dict[str, float]] = []
    entropies: list[Tensor] = []
    ctcs: list[Tensor] = []
    said_step = step

    def save() -> None:
        state = {"flat": [f.detach() for f in flat.flat], "average": flat.average, "optimizer": optimizer.state_dict(),
                 "step": step, "seconds_heard": seconds_heard,
                 "spent_seconds": spent_before + time.monotonic() - started}  # fmt: skip
        torch.save(state, out / "state.part")
        (out / "state.part").rename(out / "state.pt")

    out.mkdir(parents=True, exist_ok=True)
    while True:
        spent = spent_before + time.monotonic() - started
        fraction = spent / (plan.minutes * 60)
        if fraction >= 1.0:
            break
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
        leaves = flat.leaves(dtype)
        # Late in training CTC has done its work; every third step is enough to keep it.
        with_ctc = early > 0 and (fraction < 0.35 or step % 3 == 0)
        entropy, ctc = losses(
            flat.named(leaves), size, batch, filterbank, LABEL_SMOOTHING, with_ctc, hardness
        )
        (entropy + ctc_weight * ctc).backward()
        gradients = [leaf.grad.float() for leaf in leaves]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        scale = torch.where(norm.isfinite(), (plan.clip_norm / (norm + 1e-6)).clamp(max=1.0), 0.0)
        for master, gradient in zip(flat.flat, gradients, strict=True):
            master.grad = torch.nan_to_num(gradient, 0.0, 0.0, 0.0) * scale
        for group in optimizer.param_groups:
            group["lr"] = rate_at(plan, fraction, step)
        optimizer.step()
        if step % AVERAGE_EVERY == 0:
            with torch.no_grad():
                decay = min(plan.average_decay, (1 + step / AVERAGE_EVERY) / (10 + step / AVERAGE_EVERY))
                for average, master in zip(flat.average, flat.flat, strict=True):
                    average.lerp_(master.detach(), 1 - decay)
        step += 1
        seconds_heard += batch.seconds
        entropies.append(entropy.detach())
        if with_ctc:
            ctcs.append(ctc.detach())
        if time.monotonic() - said > 10:
            now = time.monotonic()
            record = {
                "seconds": round(spent_before + now - started, 1), "step": step,
                "entropy": round(float(torch.stack(entropies).mean()), 4),
                "ctc": round(float(torch.stack(ctcs).mean()), 4) if ctcs else 0.0,
                "rate": round(rate_at(plan, fraction, step), 7), "corpus_hours": round(pool.hours, 2),
                "steps_per_second": round((step - said_step) / (now - said), 2),
            }  # fmt: skip
            history.append(record)
            print(json.dumps(record), flush=True)
            entropies, ctcs, said, said_step = [], [], now, step
        if time.monotonic() - saved > 90:
            save()
            saved = time.monotonic()
    feeder.close()
    save()
    return {
        "steps": step,
        "training_seconds": round(spent_before + time.monotonic() - started, 1),
        "corpus_hours": round(pool.hours, 2),
        "hours_heard": round(seconds_heard / 3600, 1),
        "parameters": sum(math.prod(shape) for shape in network.parameter_shapes(size).values()),
        "history": history,
    }


def trained_parameters(out: Path, size: network.Size, device: torch.device) -> dict[str, Tensor]:
    """The averaged weights in `out`/state.pt, float32, under their checkpoint names."""
    state = torch.load(out / "state.pt", map_location=device, weights_only=True)
    names = dict(network.parameter_shapes(size))
    names[CTC_NAME] = (size.vocabulary + 1, size.width)
    flat = FlatParameters({name: torch.zeros(shape) for name, shape in names.items()}, device)
    flat.average = state["average"]
    return flat.averaged()
