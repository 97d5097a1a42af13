"""Check that a folder holds a whole model: the files, every shard, every shard's full length.

Reads config.json and the headers of the weights, never the weights themselves. Refuses pickles. What the tensors
are called and what shapes they have is the loader's to judge.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

from scribewire.engine.protocol.errors import CheckpointMismatch, ModelIncomplete, ModelNotFound

CONFIG_FILE = "config.json"
VOCABULARY_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
INDEX_FILE = "model.safetensors.index.json"
REMEDY = "fetch the model again"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own bound. Source: the format's specification (README of the safetensors project)."""


def check_model_folder(folder: Path, *, remedy: str | None = REMEDY) -> None:
    """Return when the folder is whole.

    remedy: what to do about a missing or cut-off file, in the imperative; it ends the error's one line. None says
            nothing, for a caller who goes on to say more.
    raises: ModelNotFound (no such folder), ModelIncomplete (naming the file at fault)
    """
    read_config(folder, remedy=remedy)
    for shard in weight_files(folder, remedy=remedy):
        check_whole_file(shard, remedy)
    has_vocabulary = all((folder / name).is_file() for name in VOCABULARY_FILES)
    if not has_vocabulary and not (folder / "tokenizer.json").is_file():
        raise ModelIncomplete(
            f"{folder} has no tokenizer (tokenizer.json, or {', '.join(VOCABULARY_FILES)}){_then(remedy)}"
        )


def read_config(folder: Path, *, remedy: str | None = REMEDY) -> dict[str, Any]:
    """The folder's config.json.

    raises: ModelNotFound (no such folder), ModelIncomplete (no such file, or damaged), CheckpointMismatch
    """
    if not folder.exists():
        raise ModelNotFound(f"there is no folder {folder}")
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is a file; give the folder that holds config.json and the weights")
    return _read_json_object(folder / CONFIG_FILE, folder, remedy)


def weight_files(folder: Path, *, remedy: str | None = REMEDY) -> list[Path]:
    """The safetensors files that make up the model, as its index or their numbering names them, all present.

    raises: ModelIncomplete, CheckpointMismatch (an index that is wrong, or names what is no file of this folder)
    """
    if (folder / INDEX_FILE).exists():
        named = _read_json_object(folder / INDEX_FILE, folder, remedy).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise CheckpointMismatch(f"{folder / INDEX_FILE} names no weights")
        files = [_file_of_index(folder, name) for name in sorted(set(map(str, named.values())))]
    else:
        files = sorted(folder.glob("*.safetensors"))
        files += _shards_left_out(folder, files)
    if not files:
        raise ModelIncomplete(_no_weights_message(folder, remedy))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelIncomplete(f"{folder} lacks {missing[0]}{more}: a half-finished download{_then(remedy)}")
    return files


def _file_of_index(folder: Path, name: str) -> Path:
    """A file that the index names: of this folder, never by a path that leads out of it."""
    if "/" in name or "\\" in name or not name.endswith(".safetensors"):
        raise CheckpointMismatch(
            f"{folder / INDEX_FILE} names {name[:80]!r}, which is no safetensors file of this folder"
        )
    return folder / name


def _shards_left_out(folder: Path, files: list[Path]) -> list[Path]:
    """Shards that the numbering `model-00001-of-00002` promises and that no file is there for."""
    promised: set[str] = set()
    for file in files:
        if match := _SHARD_NAME.fullmatch(file.name):
            count = int(match["count"])
            promised |= {f"{match['stem']}-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)}
    return [folder / name for name in sorted(promised - {file.name for file in files})]


def _no_weights_message(folder: Path, remedy: str | None) -> str:
    if any(path.suffix in PICKLE_SUFFIXES for path in folder.iterdir()):
        return (
            f"{folder} has its weights as pickles only, which are never opened because they can run code; "
            "take a repository with safetensors"
        )
    return f"{folder} has no weights (*.safetensors){_then(remedy)}"


def _read_json_object(path: Path, folder: Path, remedy: str | None) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelIncomplete(f"{folder} has no {path.name}{_then(remedy)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelIncomplete(f"{path} cannot be read ({_one_line(error)}){_then(remedy)}") from None
    if not isinstance(content, dict):
        raise ModelIncomplete(f"{path} is not a JSON object")
    return content


def check_whole_file(path: Path, remedy: str | None = REMEDY) -> None:
    """Compare a safetensors file's size with what its header says.

    raises: ModelIncomplete
    Source: the format: u64 little-endian header length, JSON header, then data up to the largest `data_offsets`.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if header_bytes > _MAX_HEADER_BYTES:
            raise ModelIncomplete(f"{path} is not a safetensors file{_then(remedy)}")
        header = file.read(header_bytes)
    if len(prefix) < 8 or len(header) < header_bytes:
        raise ModelIncomplete(f"{path} is cut off after {size_bytes} bytes{_then(remedy)}")
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        data_bytes = max((_end_of(entry) for entry in entries), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelIncomplete(
            f"{path} is not a safetensors file: its header is damaged{_then(remedy)}"
        ) from None
    wanted_bytes = 8 + header_bytes + data_bytes
    if size_bytes < wanted_bytes:
        raise ModelIncomplete(
            f"{path} is cut off: {size_bytes} of {wanted_bytes} bytes, a half-finished download{_then(remedy)}"
        )


def _end_of(entry: dict[str, Any]) -> int:
    """Where a tensor's data ends; raises ValueError when they are not as long as its shape and type say."""
    start, end = entry["data_offsets"]
    item_bits = re.search(r"\d+", entry["dtype"])
    if item_bits is not None and 8 * (end - start) != math.prod(entry["shape"]) * int(item_bits[0]):
        raise ValueError("data and shape differ")
    if start < 0:
        raise ValueError("data before the first byte")
    return int(end)


def _then(remedy: str | None) -> str:
    return f"; {remedy}" if remedy else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
