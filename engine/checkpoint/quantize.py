"""Writes a quantized copy of a checkpoint, in the layout of the mlx-community repositories, and goes on after a break.

Weights are written in shards, each under its final name only when it is whole, and noted then in a record beside them;
config.json comes last, so that an unfinished folder is never taken for a model. At any time no more is in memory than
one matrix of the source and what is made of it. A folder that holds anything else is refused, never emptied.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx

from scribewire.engine.checkpoint.card import CARD_FILE, Measured, Summary, model_card
from scribewire.engine.checkpoint.integrity import CONFIG_FILE, INDEX_FILE, read_config, weight_files
from scribewire.engine.checkpoint.layouts import nested_config
from scribewire.engine.checkpoint.load import Checkpoint, read_checkpoint
from scribewire.engine.checkpoint.recipes import Recipe, Scheme
from scribewire.engine.model.projection import QuantizedTensor
from scribewire.engine.protocol.errors import CheckpointMismatch, OptionInvalid

RECORD_FILE = "scribewire_quantization.json"
DRAFT_SUFFIX = ".partial"
SHARD_BYTES = 256_000_000
_PART_WEIGHTS = 1 << 23
"""Weights that are quantized at once: rows know nothing of each other, so parts of a matrix equal the whole."""

_COPIED_SUFFIXES = (".json", ".txt", ".jinja")
_TYPE_NAMES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.uint8: "U8",
}

Progress = Callable[[int, int], None]
"""Called with the bytes of the source that are done, and those in all; a quantized source counts as 16 bits."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A tensor of the source and the form it will have. scheme: None leaves it as it is."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    scheme: Scheme | None

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def source_bytes(self) -> int:
        return self.count * self.dtype.size

    def stored(self) -> dict[str, tuple[mx.Dtype, tuple[int, ...]]]:
        """Type and shape of everything that is written of it, in the order of the file."""
        scheme = self.scheme
        if scheme is None:
            return {self.name: (self.dtype, self.shape)}
        rows, columns = self.shape
        groups = (rows, columns // scheme.group_size)
        packed = {self.name: (mx.uint32, (rows, columns * scheme.bits // 32))}
        if scheme.mode != "affine":
            return {**packed, f"{self.module}.scales": (mx.uint8, groups)}
        return {
            **packed,
            f"{self.module}.scales": (self.dtype, groups),
            f"{self.module}.biases": (self.dtype, groups),
        }

    @property
    def stored_bytes(self) -> int:
        return sum(dtype.size * math.prod(shape) for dtype, shape in self.stored().values())


def quantize(
    source: Path,
    destination: Path,
    recipe: Recipe,
    *,
    source_id: str,
    quality: str | None = None,
    progress: Progress = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> Summary:
    """Write `destination`, or what is missing of it since an earlier call with the same source and recipe.

    source_id: the source's name on the card. quality: a text for the card; None keeps that of an earlier call.
    raises: OptionInvalid (recipe or destination), ModelError (source), OSError
    """
    raw_config = read_config(source)
    checkpoint = read_checkpoint(source)
    shards = _shards(_planned(checkpoint, recipe), shard_bytes)
    plan = {
        "source": source_id,
        "source_files": {
            path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in weight_files(source)
        },
        "recipe": recipe.name,
        "rules": [asdict(rule) for rule in recipe.rules],
        "shards": {name: [one.name for one in shard] for name, shard in shards.items()},
    }
    with _claimed(destination):
        record = _record(destination, plan)
        if quality is not None:
            record["quality"] = quality
        _write_shards(destination, shards, checkpoint, record, progress)
        return _finish(source, destination, checkpoint, raw_config, shards, recipe, record)


def _planned(checkpoint: Checkpoint, recipe: Recipe) -> list[_Planned]:
    """Every tensor in the order of the layout's table, embeddings first."""
    found = []
    for name, tensor in checkpoint.tensors.items():
        if isinstance(tensor, QuantizedTensor):
            dtype = mx.bfloat16 if tensor.biases is None else tensor.scales.dtype
            shape: tuple[int, ...] = (tensor.packed.shape[0], tensor.packed.shape[1] * 32 // tensor.bits)
        else:
            dtype, shape = tensor.dtype, tuple(tensor.shape)
        one = _Planned(name, shape, dtype, None)
        scheme = recipe.scheme_of(one.module) if len(shape) == 2 else None
        # As MLX's own tools do, a matrix that groups do not divide is left as it is.
        fits = scheme is not None and shape[1] % scheme.group_size == 0
        found.append(_Planned(name, shape, dtype, scheme if fits else None))
    matrices = [one.module for one in found if len(one.shape) == 2]
    unused = recipe.unused_rules(matrices)
    # A recognizer whose head is its embedding has no matrix of that name.
    if unused := [pattern for pattern in unused if pattern != "lm_head"]:
        raise OptionInvalid(
            f"recipe {recipe.name}: no matrix of this model is called {unused[0]}; one is {matrices[-1]}",
            parameter="recipe",
        )
    if not any(one.scheme for one in found):
        raise OptionInvalid(f"recipe {recipe.name} leaves every matrix as it is", parameter="recipe")
    return found


def _shards(planned: list[_Planned], shard_bytes: int) -> dict[str, list[_Planned]]:
    """Tensors by file, in order; a file is begun when the last one has as many bytes as it may."""
    groups: list[list[_Planned]] = [[]]
    for one in planned:
        if groups[-1] and sum(o.stored_bytes for o in groups[-1]) + one.stored_bytes > shard_bytes:
            groups.append([])
        groups[-1].append(one)
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{n:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups, 1)}


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold a folder against a second process; made when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise OptionInvalid(f"another process is writing {folder} right now", parameter="dest") from None
    finally:
        os.close(descriptor)


def _record(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call has noted of the same plan, or a new record.

    raises: OptionInvalid when the folder holds anything else
    """
    path = folder / RECORD_FILE
    if not path.exists():
        if any(not one.name.endswith(DRAFT_SUFFIX) for one in folder.iterdir()):
            raise OptionInvalid(f"{folder} holds something already; give another folder", parameter="dest")
        record = {"plan": plan, "done": {}, "quality": ""}
        _write_whole(path, record)
        return record
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        is_same = found["plan"] == json.loads(json.dumps(plan))
    except (ValueError, KeyError, TypeError):
        is_same = False
    if not is_same:
        raise OptionInvalid(
            f"{folder} was begun from another source or with another recipe; remove it, or give another folder",
            parameter="dest",
        )
    return dict(found)


def _write_shards(
    folder: Path,
    shards: dict[str, list[_Planned]],
    checkpoint: Checkpoint,
    record: dict[str, Any],
    progress: Progress,
) -> None:
    done: dict[str, Any] = record["done"]
    missing = {
        name: shard
        for name, shard in shards.items()
        if name not in done or not _has_size(folder / name, done[name]["bytes"])
    }
    needed = sum(one.stored_bytes for shard in missing.values() for one in shard)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OptionInvalid(
            f"{folder} needs {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free", parameter="dest"
        )
    total = sum(one.source_bytes for shard in shards.values() for one in shard)
    ready = total - sum(one.source_bytes for shard in missing.values() for one in shard)

    def advance(count: int) -> None:
        nonlocal ready
        ready += count
        progress(ready, total)

    advance(0)
    for name, shard in missing.items():
        measured = _write_shard(folder / name, shard, checkpoint, advance)
        done[name] = {"bytes": (folder / name).stat().st_size, "measured": measured}
        _write_whole(folder / RECORD_FILE, record)


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def _write_shard(
    path: Path, shard: list[_Planned], checkpoint: Checkpoint, advance: Callable[[int], None]
) -> dict[str, list[float]]:
    """One safetensors file, whole or not at all; returns (squares of the error, squares) of each quantized module.

    Source: the format: u64 little-endian header length, JSON header, then the data in the header's order.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for one in shard:
        for name, (dtype, shape) in one.stored().items():
            start, end = end, end + dtype.size * math.prod(shape)
            header[name] = {
                "dtype": _TYPE_NAMES[dtype],
                "shape": shape,
                "data_offsets": [start, end],
            }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    measured: dict[str, list[float]] = {}
    draft = path.with_name(path.name + DRAFT_SUFFIX)
    with draft.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for one in shard:
            # Taken out, so that what was read of it is let go.
            tensor = checkpoint.tensors.pop(one.name)
            squares = _write_tensor(file, one, tensor, advance)
            if one.scheme is not None:
                measured[one.module] = squares
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return measured


def _write_tensor(
    file: BinaryIO, one: _Planned, tensor: mx.array | QuantizedTensor, advance: Callable[[int], None]
) -> list[float]:
    """Write what is stored of one tensor, part by part.

    returns: sums of the squares of the error and of the weights
    raises: CheckpointMismatch when it is not finite
    """
    scheme, rows = one.scheme, one.shape[0]
    step = max(1, _PART_WEIGHTS // max(1, one.count // rows))
    scales: list[mx.array] = []
    biases: list[mx.array] = []
    error, weight = 0.0, 0.0
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        if isinstance(tensor, QuantizedTensor):
            part = tensor.rows(mx.arange(start, stop)).dequantized(one.dtype)
        else:
            part = tensor[start:stop]
        wide = part.astype(mx.float32)
        weight += float(mx.sum(wide * wide))
        if not math.isfinite(weight):
            raise CheckpointMismatch(f"{one.name} holds NaN or infinity: the weights are broken")
        if scheme is None:
            file.write(_bytes(part))
        else:
            packed, *rest = mx.quantize(
                part, group_size=scheme.group_size, bits=scheme.bits, mode=scheme.mode
            )
            made = QuantizedTensor(
                packed, rest[0], rest[1] if rest[1:] else None, scheme.bits, scheme.group_size, scheme.mode
            )
            difference = made.dequantized(mx.float32) - wide
            error += float(mx.sum(difference * difference))
            file.write(_bytes(packed))
            scales.append(rest[0])
            biases += rest[1:]
        advance((stop - start) * (one.source_bytes // rows))
    for array in (*scales, *biases):
        file.write(_bytes(array))
    return [error, weight]


def _bytes(array: mx.array) -> memoryview:
    """The numbers as they lie in memory; bfloat16 has no name there, but its bits have."""
    array = mx.contiguous(array)
    return memoryview(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)  # type: ignore[arg-type]  # MLX's arrays are buffers


def _finish(
    source: Path,
    folder: Path,
    checkpoint: Checkpoint,
    raw_config: dict[str, Any],
    shards: dict[str, list[_Planned]],
    recipe: Recipe,
    record: dict[str, Any],
) -> Summary:
    """Everything beside the weights, config.json last."""
    planned = [one for shard in shards.values() for one in shard]
    squares = {module: both for done in record["done"].values() for module, both in done["measured"].items()}
    summary = Summary(
        source_id=record["plan"]["source"],
        source_bytes=sum(size for size, _ in record["plan"]["source_files"].values()),
        recipe=recipe,
        written_bytes=sum(done["bytes"] for done in record["done"].values()),
        weight_count=sum(one.count for one in planned),
        is_of_quantized=any(key in raw_config for key in ("quantization", "quantization_config")),
        measured=tuple(
            Measured(one.module, one.count, one.scheme, *squares.get(one.module, (0.0, 0.0)))
            for one in planned
            if len(one.shape) == 2
        ),
        quality=record["quality"],
    )
    for path in sorted(source.iterdir()):
        is_ours = path.name in (CONFIG_FILE, INDEX_FILE, RECORD_FILE)
        if path.suffix in _COPIED_SUFFIXES and path.is_file() and not is_ours:
            shutil.copyfile(path, folder / path.name)
    if len(shards) > 1:
        weight_map = {name: file for file, shard in shards.items() for one in shard for name in one.stored()}
        size = sum(one.stored_bytes for one in planned)
        _write_whole(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": weight_map})
    (folder / CARD_FILE).write_text(model_card(summary), encoding="utf-8")
    _write_whole(folder / RECORD_FILE, record)
    config = nested_config(raw_config, checkpoint.config)
    declared = _declared(planned)
    _write_whole(folder / CONFIG_FILE, config | {"quantization": declared, "quantization_config": declared})
    return summary


def _declared(planned: list[_Planned]) -> dict[str, Any]:
    """config.json's section: the form of the most weights, and an entry for each module that has another."""
    counts: dict[Scheme, int] = {}
    for one in planned:
        if one.scheme is not None:
            counts[one.scheme] = counts.get(one.scheme, 0) + one.count
    general = max(counts, key=counts.__getitem__)
    others = {
        one.module: one.scheme.declared for one in planned if one.scheme is not None and one.scheme != general
    }
    return general.declared | others


def _write_whole(path: Path, content: dict[str, Any]) -> None:
    """Write JSON under a name that never stands for half of it."""
    draft = path.with_name(path.name + DRAFT_SUFFIX)
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
