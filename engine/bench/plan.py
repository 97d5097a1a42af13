"""The plan of one benchmark, which the command line becomes, each setting written once with its defaults."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from scribewire.engine.protocol.config import DEFAULT_MODEL

PARTS = ("limits", "load", "step", "clip", "clients", "long")
"""Bandwidth and products; a fresh process; decode steps; samples in to text out; over HTTP; one long file."""

_Value = TypeVar("_Value")


class PlanInvalid(ValueError):
    """Options that contradict each other; the message names them."""


def setting(default: _Value, quick: _Value, part: str, help_text: str = "") -> _Value:
    """A number that one part's figures depend on. help_text: of its flag; without one it has none."""
    return field(default=default, metadata={"quick": quick, "part": part, "help": help_text})


def each(value: Any) -> tuple[Any, ...]:
    """A setting's values, of which it may have one or several."""
    return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is measured.

    model: `demo`, a folder or an id. clients: how many at once, each number by itself; 1 is always measured, as the
    idle latency. long_file: a WAV file instead of one made up.
    """

    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: str = "auto"
    parts: tuple[str, ...] = PARTS
    loads: int = setting(3, 1, "load", "loads in fresh processes")
    rounds: int = setting(9, 3, "clip", "runs of each clip")
    clip_seconds: tuple[float, ...] = setting((5.0, 10.0, 30.0), (5.0,), "clip", "lengths of the clips")
    rows: tuple[int, ...] = setting((1, 8, 32, 64), (1, 4), "step", "rows of the decode step")
    row_seconds: float = setting(10.0, 5.0, "step", "seconds of audio behind each row")
    steps: int = setting(48, 8, "step", "decode steps timed")
    clients: tuple[int, ...] = setting((1, 8, 32), (1, 2), "clients", "how many clients at once")
    client_seconds: float = setting(10.0, 3.0, "clients", "length of their clips")
    requests_per_client: int = setting(4, 2, "clients", "requests of each in a round")
    client_rounds: int = setting(3, 1, "clients", "rounds of each number of clients")
    round_seconds: float = setting(
        5.0, 0.0, "clients", "least length of such a round, and of the warm-up before the first"
    )
    long_seconds: float = setting(600.0, 40.0, "long", "length of the long file")
    long_rounds: int = setting(1, 1, "long", "runs of the long file")
    long_file: Path | None = None
    limit_bytes: int = setting(1 << 30, 1 << 26, "limits")
    product_size: int = setting(4096, 512, "limits")

    all_parts: ClassVar[tuple[str, ...]] = PARTS
    clip_lengths: ClassVar[tuple[str, ...]] = ("clip_seconds", "row_seconds", "client_seconds")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured; raises PlanInvalid."""
        if unknown := sorted(set(self.parts) - set(self.all_parts)):
            raise PlanInvalid(f"there is no part {unknown[0]}; parts are {', '.join(self.all_parts)}")
        numbers = [value for one in self.numbers() for value in each(getattr(self, one.name))]
        if min(value for value in numbers if isinstance(value, int)) < 1:
            raise PlanInvalid("rows, clients, rounds and requests are whole numbers from 1")
        clips = [value for name in self.clip_lengths for value in each(getattr(self, name))]
        if min(*clips, self.long_seconds) < 2.0:
            raise PlanInvalid("clips and files are 2 seconds long or more")
        if max(clips) > 30.0:
            raise PlanInvalid("clips are 30 seconds long or less; the long file is for more")
        if not 0.0 <= self.round_seconds <= 3600.0:
            raise PlanInvalid("a round of clients lasts from 0 to 3600 seconds")

    @classmethod
    def numbers(cls) -> list[Field[Any]]:
        """The fields made by `setting`."""
        return [one for one in fields(cls) if "quick" in one.metadata]

    def quick(self, keep: Collection[str] = ()) -> Self:
        """The smallest plan that still shows that everything works, but for the fields to `keep`."""
        small = {one.name: one.metadata["quick"] for one in self.numbers() if one.name not in keep}
        return replace(self, **small)

    def subject(self) -> dict[str, Any]:
        """Identity of the measured model, without any path: results of one subject may share a file."""
        model = Path(self.model).name if Path(self.model).exists() else self.model
        # No token counts are forced: the model ends by itself.
        return {"model": model, "device": self.device, "dtype": self.dtype, "tokens_per_second": 0.0}

    def names_of(self, part: str) -> set[str]:
        """The settings that one part's figures depend on."""
        return {one.name for one in self.numbers() if one.metadata["part"] == part}

    def settings(self, part: str) -> dict[str, Any]:
        """The settings of one part as JSON: a finished part counts only for the same ones."""
        chosen = {name: getattr(self, name) for name in sorted(self.names_of(part))}
        if self.long_file is not None and "long_seconds" in chosen:
            chosen["long_seconds"] = self.long_file.name
        return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
