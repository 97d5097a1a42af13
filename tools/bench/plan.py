"""A developer's benchmark beyond the product's: more parts, random weights, forced counts, and peers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from scribewire.engine.batching.forcing import NATURAL_TOKENS_PER_SECOND
from scribewire.engine.bench.plan import Plan, PlanInvalid, setting
from tools.bench.sizes import RECIPES, SIZES

PARTS = ("limits", "load", "encoder", "prefill", "step", "clip", "clients", "long", "middle")
"""An owner's, and samples to embeddings, prompts into the cache, short requests in the middle of the long file."""
COMPARED_PARTS = ("clip", "clients", "long")
PEER_NAMES = ("mlx-qwen3-asr", "mlx-audio")

_OF_PART = {
    "encoder": {"rows", "row_seconds", "rounds"},
    "prefill": {"rows", "row_seconds", "rounds"},
    "middle": {"long_seconds", "long_rounds", "short_seconds", "short_requests"},
}


@dataclass(frozen=True)
class ComparingPlan(Plan):
    """An owner's plan and more.

    random: a size's name, for random weights in `recipe`; the model is then not used.
    keep: a folder in which random models are kept for the next run; None makes and removes them.
    tokens_per_second: forces token counts of about this rate (see scribewire.engine.batching.forcing); 0 lets the
    model end. peers: names of peers to compare with; peer_pythons: interpreters that may have them, the first that
    has counts. peer_batches: batch sizes of mlx-audio's long-file path, the fastest of which counts.
    """

    parts: tuple[str, ...] = PARTS
    random: str | None = None
    recipe: str = "bf16"
    keep: Path | None = None
    tokens_per_second: float = 0.0
    short_seconds: float = setting(5.0, 3.0, "middle", "length of the requests in the long file's middle")
    short_requests: int = setting(3, 1, "middle", "how many of them")
    peers: tuple[str, ...] = ()
    peer_pythons: tuple[str, ...] = ()
    peer_batches: tuple[int, ...] = setting((8, 16, 32, 64), (4,), "")

    all_parts: ClassVar[tuple[str, ...]] = PARTS
    clip_lengths: ClassVar[tuple[str, ...]] = (*Plan.clip_lengths, "short_seconds")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured; raises PlanInvalid."""
        super().__post_init__()
        if self.random is not None and self.random not in SIZES:
            raise PlanInvalid(f"random weights come in {', '.join(SIZES)}, not in {self.random}")
        if self.recipe not in RECIPES:
            raise PlanInvalid(f"there is no recipe {self.recipe}; recipes are {', '.join(RECIPES)}")
        if unknown := sorted(set(self.peers) - set(PEER_NAMES)):
            raise PlanInvalid(f"no peer is called {unknown[0]}; peers are {', '.join(PEER_NAMES)}")
        if not 0.0 <= self.tokens_per_second <= 50.0:
            raise PlanInvalid("tokens per second are from 0 to 50")
        if self.random is not None and self.tokens_per_second == 0.0:
            raise PlanInvalid("random weights never end by themselves; give a rate of tokens per second")

    def subject(self) -> dict[str, Any]:
        """Name of the measured model, without any path."""
        own = {} if self.random is None else {"model": f"random {self.random} {self.recipe}"}
        return super().subject() | own | {"tokens_per_second": self.tokens_per_second}

    def names_of(self, part: str) -> set[str]:
        """The settings that one part's figures depend on."""
        return _OF_PART.get(part) or super().names_of(part)

    def settings(self, part: str) -> dict[str, Any]:
        """Those settings as JSON, and the peers of a compared part."""
        chosen = super().settings(part)
        if part in COMPARED_PARTS:
            chosen["peers"] = list(self.peers)
            if part == "long" and "mlx-audio" in self.peers:
                chosen["peer_batches"] = list(self.peer_batches)
        return chosen


def default_tokens_per_second(random: str | None) -> float:
    """Random weights are forced to a natural rate; others end by themselves."""
    return 0.0 if random is None else NATURAL_TOKENS_PER_SECOND
