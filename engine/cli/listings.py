"""`scribewire models` and `scribewire languages`: what is on disk, what is published, what can be spoken.

Neither asks the network nor loads a model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import CacheNotFound

from scribewire.engine.checkpoint.download import INCOMPLETE_SUFFIX
from scribewire.engine.checkpoint.fetch import HubAccess, resolve_model
from scribewire.engine.checkpoint.published import PUBLISHED_MODELS
from scribewire.engine.demo import demo_model_path
from scribewire.engine.model.config import ConfigError, ModelConfig
from scribewire.engine.processes.console import Console, shown_bytes, table
from scribewire.engine.protocol.config import DEFAULT_ALIGNER, DEFAULT_MODEL, DEMO_MODEL
from scribewire.engine.protocol.errors import CheckpointMismatch, EngineError
from scribewire.engine.protocol.languages import LANGUAGES, language_by_name

_MODEL_TYPES = ("qwen3_asr",)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One line of the list.

    state: `complete`, `half-downloaded`, `damaged` (the demo only) or `not on disk`.
    size_bytes: on disk, else roughly what a download takes.
    """

    model_id: str
    state: str
    size_bytes: int
    remark: str = ""
    problem: str | None = None


def list_models(hub: HubAccess | None = None) -> list[ListedModel]:
    """The demo, what the hub's cache holds of this kind, and the published models that are not there."""
    hub = hub or HubAccess()
    here = {model.model_id: model for model in (_demo(), *_cached(hub))}
    published = {model.model_id: model for model in PUBLISHED_MODELS}
    away = [
        ListedModel(model.model_id, "not on disk", model.size_bytes, model.remark)
        for model in PUBLISHED_MODELS
        if model.model_id not in here
    ]
    known_remarks = {name: model.remark for name, model in published.items()}
    return [
        ListedModel(
            m.model_id, m.state, m.size_bytes, m.remark or known_remarks.get(m.model_id, ""), m.problem
        )
        for m in here.values()
    ] + away


def show_models(console: Console, *, as_json: bool, hub: HubAccess | None = None) -> int:
    """Print the list; returns 0."""
    models = list_models(hub)
    if as_json:
        console.say(json.dumps([asdict(model) for model in models], indent=2))
        return 0
    here = [model for model in models if model.state != "not on disk"]
    away = [model for model in models if model.state == "not on disk"]
    console.say("On this disk:")
    for line in table(
        [[m.model_id, shown_bytes(m.size_bytes), m.state, m.remark] for m in here],
        indent="  ",
        columns=console.columns,
    ):
        console.say(line)
    for model in here:
        if model.problem is not None:
            console.warn(f"{model.model_id}: {model.problem}")
    if away:
        console.say("\nPublished (sizes are approximate; fetch one with `scribewire pull MODEL`):")
        rows = [
            [
                m.model_id,
                shown_bytes(m.size_bytes),
                ("default: " if m.model_id in (DEFAULT_MODEL, DEFAULT_ALIGNER) else "") + m.remark,
            ]
            for m in away
        ]
        for line in table(rows, indent="  ", columns=console.columns):
            console.say(line)
    return 0


def _demo() -> ListedModel:
    folder = demo_model_path()
    size = sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) if folder.is_dir() else 0
    try:
        resolve_model(DEMO_MODEL)
    except EngineError as error:
        return ListedModel(DEMO_MODEL, "damaged", size, "bundled", str(error))
    return ListedModel(DEMO_MODEL, "complete", size, "bundled; synthetic speech only")


def _cached(hub: HubAccess) -> list[ListedModel]:
    found = []
    try:
        repositories = huggingface_hub.scan_cache_dir(hub.cache).repos
    except CacheNotFound:
        repositories = frozenset()
    scanned = set()
    published = {model.model_id for model in PUBLISHED_MODELS}
    for repository in sorted(repositories, key=lambda one: one.repo_id):
        if repository.repo_type != "model":
            continue
        snapshots = [revision.snapshot_path for revision in repository.revisions]
        if repository.repo_id in published or any(_is_of_this_kind(path) for path in snapshots):
            scanned.add(repository.repo_id)
            found.append(_cached_model(repository.repo_id, repository.size_on_disk, hub))
    # A download that never finished has no snapshot yet, and scan_cache_dir passes over it.
    for model_id in sorted(published - scanned):
        incomplete_bytes = _incomplete_bytes(model_id, hub)
        if incomplete_bytes:
            found.append(_cached_model(model_id, 0, hub))
    return found


def _cached_model(model_id: str, size_bytes: int, hub: HubAccess) -> ListedModel:
    size_bytes += _incomplete_bytes(model_id, hub)
    try:
        resolve_model(model_id, offline=True, hub=hub)
    except EngineError:
        return ListedModel(
            model_id,
            "half-downloaded",
            size_bytes,
            problem=f"half-downloaded: `scribewire pull {model_id}` completes it",
        )
    return ListedModel(model_id, "complete", size_bytes)


def _incomplete_bytes(model_id: str, hub: HubAccess) -> int:
    blobs = hub.repository_folder(model_id) / "blobs"
    return sum(file.stat().st_size for file in blobs.glob("*" + INCOMPLETE_SUFFIX))


def _is_of_this_kind(snapshot: Path) -> bool:
    """True when a snapshot's config.json is that of a speech recognizer of this family."""
    try:
        config = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") in _MODEL_TYPES


# ---- languages -----------------------------------------------------------------------------------------------


def show_languages(
    console: Console, *, model: str | None, as_json: bool, hub: HubAccess | None = None
) -> int:
    """Print the languages that can be named, or those of one model that is on disk; returns 0.

    raises: ModelError, LanguageUnknown
    """
    languages = (
        LANGUAGES if model is None else tuple(language_by_name(name) for name in _spoken_by(model, hub))
    )
    if as_json:
        rows = [
            {
                "name": one.name,
                "code": one.code,
                "native_name": one.native_names[0],
                "other_codes": one.other_codes,
                "region_tags": one.region_tags,
            }
            for one in languages
        ]
        console.say(json.dumps(rows, ensure_ascii=False, indent=2))
        return 0
    # The native name comes last: its width on a terminal is not its number of characters.
    rows_of_text = [["CODE", "NAME", "REGION TAGS", "NATIVE NAME"]]
    rows_of_text += [
        [one.code, one.name, " ".join(one.region_tags), one.native_names[0]] for one in languages
    ]
    for line in table(rows_of_text, columns=console.columns):
        console.say(line)
    return 0


def _spoken_by(model: str, hub: HubAccess | None) -> tuple[str, ...]:
    """English names from config.json's support_languages; all when the file does not say."""
    folder = resolve_model(model, hub=hub).folder
    try:
        names = ModelConfig.from_dict(
            json.loads((folder / "config.json").read_text(encoding="utf-8"))
        ).languages
    except ConfigError as error:
        raise CheckpointMismatch(f"{folder}: {error}") from None
    return names or tuple(one.name for one in LANGUAGES)
