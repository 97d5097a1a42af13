"""One optimizer step for a small network on a large GPU, its running average, and saving and resuming.

All parameters live in two flat tensors (matrices, with weight decay; vectors, without), so casting, clipping, the
optimizer and the average are one kernel each. The rate follows the clock, not the step count: wherever it runs, it
ends cooled down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

AVERAGE_EVERY = 5
_LOWEST_RATE_SHARE = 0.005
# For the last part of the time fewer and fewer clips are disturbed: a small network must spend itself on what is said.
EASING_FROM, EASED_HARDNESS = 0.6, 0.3


@dataclass(frozen=True)
class TrainingPlan:
    """The course of training. batch_seconds: speech in one step; longest_at_first_seconds holds for 8 % of the time."""

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
    # What is computed in: "auto" is bfloat16 on a GPU, float32 elsewhere. Processors with matrix units (AMX) gain by
    # bfloat16 too; others lose.
    dtype: str = "auto"

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The type to compute in on `device`."""
        if self.dtype == "auto":
            return torch.bfloat16 if device.type == "cuda" else torch.float32
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype]


def rate_at(plan: TrainingPlan, fraction: float, step: int) -> float:
    """Learning rate when `fraction` of the time is over: linear warm-up by steps, then a cosine by the clock."""
    return (
        plan.peak_rate
        * min(1.0, (step + 1) / plan.warmup_steps)
        * max(_LOWEST_RATE_SHARE, 0.5 * (1 + math.cos(math.pi * fraction)))
    )


def hardness_at(fraction: float) -> float:
    """Share of the usual disturbances when `fraction` of the time is over."""
    eased = max(0.0, fraction - EASING_FROM) / (1.0 - EASING_FROM)
    return 1.0 - (1.0 - EASED_HARDNESS) * eased


class FlatParameters:
    """Named tensors in two flat float32 tensors: matrices first, vectors second."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
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
        """The running average, float32."""
        return self.named([average.clone() for average in self.average])


class Optimization:
    """AdamW over flat parameters: clipped gradients, steps without a finite gradient left out, an average kept."""

    def __init__(self, start: Mapping[str, Tensor], plan: TrainingPlan, device: torch.device) -> None:
        self.flat = FlatParameters(start, device)
        self.step_count = 0
        self._plan = plan
        self._dtype = plan.dtype_on(device)
        matrices, vectors = self.flat.flat
        self._adam = torch.optim.AdamW(
            [{"params": [matrices], "weight_decay": plan.weight_decay}, {"params": [vectors], "weight_decay": 0.0}],
            lr=plan.peak_rate, betas=(0.9, 0.98), eps=1e-8, fused=device.type == "cuda",
        )  # fmt: skip
        self._leaves: list[Tensor] = []
        # cuDNN's attention plans anew for every length, milliseconds at a time; the other kernels do not.
        torch.backends.cuda.enable_cudnn_sdp(False)

    def parameters(self) -> dict[str, Tensor]:
        """Named copies to compute a loss with, which take_step then learns from."""
        self._leaves = self.flat.leaves(self._dtype)
        return self.flat.named(self._leaves)

    def take_step(self, loss: Tensor, fraction: float) -> None:
        """Learn from a loss of the last `parameters()`, when `fraction` of the time is over."""
        loss.backward()
        gradients = [leaf.grad.float() for leaf in self._leaves]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        scale = torch.where(norm.isfinite(), (self._plan.clip_norm / (norm + 1e-6)).clamp(max=1.0), 0.0)
        for master, gradient in zip(self.flat.flat, gradients, strict=True):
            master.grad = torch.nan_to_num(gradient, 0.0, 0.0, 0.0) * scale
        for group in self._adam.param_groups:
            group["lr"] = rate_at(self._plan, fraction, self.step_count)
        self._adam.step()
        if self.step_count % AVERAGE_EVERY == 0:
            with torch.no_grad():
                age = self.step_count / AVERAGE_EVERY
                decay = min(self._plan.average_decay, (1 + age) / (10 + age))
                for average, master in zip(self.flat.average, self.flat.flat, strict=True):
                    average.lerp_(master.detach(), 1 - decay)
        self.step_count += 1

    def save(self, path: Path, seconds_heard: float, spent_seconds: float) -> None:
        """Everything that resuming needs, in one file that is whole or not there."""
        state = {
            "flat": [flat.detach() for flat in self.flat.flat],
            "average": self.flat.average,
            "optimizer": self._adam.state_dict(),
            "step": self.step_count,
            "seconds_heard": seconds_heard,
            "spent_seconds": spent_seconds,
        }
        unfinished = path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.rename(path)

    def restore(self, path: Path, device: torch.device) -> tuple[float, float]:
        """Take up what save() left; returns the seconds heard and spent."""
        state = torch.load(path, map_location=device, weights_only=True)
        with torch.no_grad():
            mine = (*self.flat.flat, *self.flat.average)
            for tensor, saved in zip(mine, (*state["flat"], *state["average"]), strict=True):
                tensor.copy_(saved)
        self._adam.load_state_dict(state["optimizer"])
        self.step_count = state["step"]
        return state["seconds_heard"], state["spent_seconds"]


def averaged_weights(
    path: Path, shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> dict[str, Tensor]:
    """The running average in a saved state, float32, by name. `shapes`: all parameters, in the order of training."""
    state = torch.load(path, map_location=device, weights_only=True)
    flat = FlatParameters({name: torch.zeros(shape) for name, shape in shapes.items()}, device)
    flat.average = state["average"]
    return flat.averaged()
