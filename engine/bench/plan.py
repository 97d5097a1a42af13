"""What one benchmark is to measure: the plan that the command line becomes, with the defaults written once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engine.batching.forcing import NATURAL_TOKENS_PER_SECOND
from engine.bench.sizes import RECIPES, SIZES
from engine.protocol.config import DEFAULT_MODEL

PARTS = {
    "limits": "memory bandwidth and matrix products of this machine, as MLX reaches them",
    "load": "from a process's start to a model ready to use",
    "encoder": "samples to audio embeddings, one clip and a batch",
    "prefill": "prompts into the cache",
    "step": "one token of every row, and its share of the limits",
    "clip": "one clip alone, samples in to text out",
    "clients": "throughput and latencies of clients over HTTP",
    "long": "one long file",
    "middle": "short requests in the middle of the long file, over HTTP",
}
COMPARED_PARTS = ("clip", "clients", "long")
PEER_NAMES = ("mlx-qwen3-asr", "mlx-audio")


class PlanInvalid(ValueError):
    """Options that make no sense together; the message says which."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what is measured.

    model: `demo`, a folder or an id; not used with `random`. random: a size's name, for random weights in `recipe`.
    keep: a folder in which random models are kept for the next run; None makes and removes them.
    tokens_per_second: forces token counts of about this rate (see engine.batching.forcing); 0 lets the model end.
    clients: how many at once, each number by itself; 1 is always measured, as the idle latency.
    loads, rounds, steps, requests_per_client, client_rounds, long_rounds, short_requests: how often.
    round_seconds: a round of clients lasts at least so long, as does their warm-up.
    long_seconds: length of a made-up long file; long_file is used instead where given (a WAV file).
    peers: names of peers to compare with; peer_pythons: interpreters that may have them, the first that has counts.
    peer_batches: batch sizes of mlx-audio's long-file path, the fastest of which counts.
    """

    model: str = DEFAULT_MODEL
    random: str | None = None
    recipe: str = "bf16"
    keep: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    parts: tuple[str, ...] = tuple(PARTS)
    tokens_per_second: float = 0.0
    loads: int = 3
    rounds: int = 9
    clip_seconds: tuple[float, ...] = (5.0, 10.0, 30.0)
    row_seconds: float = 10.0
    rows: tuple[int, ...] = (1, 8, 32, 64)
    steps: int = 48
    clients: tuple[int, ...] = (1, 8, 32)
    client_seconds: float = 10.0
    requests_per_client: int = 4
    client_rounds: int = 3
    round_seconds: float = 5.0
    long_seconds: float = 600.0
    long_file: Path | None = None
    long_rounds: int = 1
    short_seconds: float = 5.0
    short_requests: int = 3
    peers: tuple[str, ...] = ()
    peer_pythons: tuple[str, ...] = ()
    peer_batches: tuple[int, ...] = (8, 16, 32, 64)
    limit_bytes: int = 1 << 30
    product_size: int = 4096

    def __post_init__(self) -> None:
        """Refuse what cannot be measured; raises PlanInvalid."""
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise PlanInvalid(f"there is no part {unknown[0]}; parts are {', '.join(PARTS)}")
        if self.random is not None and self.random not in SIZES:
            raise PlanInvalid(f"random weights come in {', '.join(SIZES)}, not in {self.random}")
        if self.recipe not in RECIPES:
            raise PlanInvalid(f"there is no recipe {self.recipe}; recipes are {', '.join(RECIPES)}")
        if unknown := sorted(set(self.peers) - set(PEER_NAMES)):
            raise PlanInvalid(f"no peer is called {unknown[0]}; peers are {', '.join(PEER_NAMES)}")
        counts = (
            *self.rows,
            *self.clients,
            self.rounds,
            self.client_rounds,
            self.long_rounds,
            self.steps,
            self.loads,
        )
        if min(counts) < 1 or self.requests_per_client < 1 or self.short_requests < 1:
            raise PlanInvalid("rows, clients, rounds and requests are whole numbers from 1")
        lengths = (*self.clip_seconds, self.row_seconds, self.client_seconds, self.short_seconds)
        if min(lengths) < 2.0 or self.long_seconds < 2.0:
            raise PlanInvalid("clips and files are 2 seconds long or more")
        if max(*self.clip_seconds, self.row_seconds, self.client_seconds, self.short_seconds) > 30.0:
            raise PlanInvalid("clips are 30 seconds long or less; the long file is for more")
        if not 0.0 <= self.round_seconds <= 3600.0:
            raise PlanInvalid("a round of clients lasts from 0 to 3600 seconds")
        if not 0.0 <= self.tokens_per_second <= 50.0:
            raise PlanInvalid("tokens per second are from 0 to 50")
        if self.random is not None and self.tokens_per_second == 0.0:
            raise PlanInvalid("random weights never end by themselves; give a rate of tokens per second")

    def quick(self) -> Plan:
        """The same, as small as still shows that everything works; its figures are rough."""
        return replace(
            self,
            loads=1,
            rounds=3,
            clip_seconds=(5.0,),
            row_seconds=5.0,
            rows=(1, 4),
            steps=8,
            clients=(1, 2),
            client_seconds=3.0,
            requests_per_client=2,
            client_rounds=1,
            round_seconds=0.0,
            long_seconds=40.0,
            short_seconds=3.0,
            short_requests=1,
            peer_batches=(4,),
            limit_bytes=1 << 26,
            product_size=512,
        )

    def subject(self) -> dict[str, Any]:
        """What is measured, without any path: results of one subject may stand in one file."""
        if self.random is not None:
            model = f"random {self.random} {self.recipe}"
        else:
            model = Path(self.model).name if Path(self.model).exists() else self.model
        return {
            "model": model,
            "device": self.device,
            "dtype": self.dtype,
            "tokens_per_second": self.tokens_per_second,
        }

    def settings(self, part: str) -> dict[str, Any]:
        """The fields that one part's figures depend on: a finished part counts only for the same ones."""
        names = _SETTINGS[part]
        chosen = {one.name: getattr(self, one.name) for one in fields(self) if one.name in names}
        if part in COMPARED_PARTS:
            chosen["peers"] = list(self.peers)
            if part == "long" and "mlx-audio" in self.peers:
                chosen["peer_batches"] = list(self.peer_batches)
        if self.long_file is not None and "long_seconds" in chosen:
            chosen["long_seconds"] = self.long_file.name
        return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


_SETTINGS: dict[str, set[str]] = {
    "limits": {"limit_bytes", "product_size"},
    "load": {"loads"},
    "encoder": {"rows", "row_seconds", "rounds"},
    "prefill": {"rows", "row_seconds", "rounds"},
    "step": {"rows", "row_seconds", "steps"},
    "clip": {"clip_seconds", "rounds"},
    "clients": {"clients", "client_seconds", "requests_per_client", "client_rounds", "round_seconds"},
    "long": {"long_seconds", "long_rounds"},
    "middle": {"long_seconds", "long_rounds", "short_seconds", "short_requests"},
}


def default_tokens_per_second(random: str | None) -> float:
    """Random weights are forced to a natural rate; others end by themselves."""
    return 0.0 if random is None else NATURAL_TOKENS_PER_SECOND
