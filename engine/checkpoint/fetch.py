"""From what the user wrote after `--model` to a whole folder on disk: the demo, a folder, or a Hugging Face id.

A model that is in the cache is used without a network call. It is not decided here whether a model can be loaded, only
whether it is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

from scribewire.engine.checkpoint.download import download as download_from_hub
from scribewire.engine.checkpoint.hub import HubAccess, Progress, is_hub_id, not_an_id_message
from scribewire.engine.checkpoint.integrity import check_model_folder
from scribewire.engine.demo import demo_model_path
from scribewire.engine.protocol.config import DEMO_MODEL
from scribewire.engine.protocol.errors import DownloadFailed, EngineError, ModelIncomplete, ModelNotFound

__all__ = ["HubAccess", "Progress", "ResolvedModel", "check_model_folder", "pull", "resolve_model"]


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A whole model on disk.

    model_id: `demo`, the Hugging Face id, or the folder's name.
    revision: commit of a model from the hub's cache, else None.
    """

    folder: Path
    model_id: str
    is_demo: bool
    revision: str | None


def resolve_model(
    model: str,
    *,
    offline: bool = False,
    download: bool = False,
    progress: Progress | None = None,
    hub: HubAccess | None = None,
) -> ResolvedModel:
    """Find a model and check that it is whole.

    model: `demo`, a folder, or a Hugging Face id. A folder of that name goes before an id.
    download: fetch an id that is not on disk or not whole, unless `offline` (or HF_HUB_OFFLINE) forbids it.
    raises: ModelNotFound naming both ways out, ModelIncomplete
    """
    hub = hub or HubAccess()
    if model == DEMO_MODEL:
        return _resolved_demo()
    folder = Path(model).expanduser()
    if folder.exists() or not is_hub_id(model):
        return _resolved_folder(model, folder)
    found = _cached_snapshot(model, hub)
    problem = _what_is_missing(model, found)
    if problem is not None:
        if offline or huggingface_hub.is_offline_mode():
            raise type(problem)(
                f"{problem}, and the hub may not be asked (--offline or HF_HUB_OFFLINE). {_ways_out(model)}"
            )
        if not download:
            raise type(problem)(f"{problem}. {_ways_out(model)}")
        found = _pulled_for_use(model, problem, progress, hub)
    assert found is not None  # whole in the cache, or just fetched
    return ResolvedModel(found, model, is_demo=False, revision=found.name)


def pull(model: str, *, progress: Progress | None = None, hub: HubAccess | None = None) -> Path:
    """Fetch a model's newest files from the hub into the shared cache, continuing where an earlier try stopped.

    returns: the snapshot folder, checked
    raises:  ModelNotFound (no such repository, no access, not an id), ModelIncomplete (not a usable model),
             DownloadFailed (offline, network, disk); what has arrived is kept
    """
    hub = hub or HubAccess()
    if model == DEMO_MODEL:
        return _resolved_demo().folder
    if not is_hub_id(model):
        raise ModelNotFound(not_an_id_message(model))
    if huggingface_hub.is_offline_mode():
        raise DownloadFailed(f"HF_HUB_OFFLINE is set, so {model} cannot be fetched; unset it and pull again")
    return download_from_hub(model, progress=progress, hub=hub)


def _resolved_demo() -> ResolvedModel:
    folder = demo_model_path()
    remedy = "the installation is damaged: install scribewire again"
    if not folder.is_dir():
        raise ModelNotFound(f"the bundled demo model is missing from {folder}; {remedy}")
    check_model_folder(folder, remedy=remedy)
    return ResolvedModel(folder, DEMO_MODEL, is_demo=True, revision=None)


def _resolved_folder(model: str, folder: Path) -> ResolvedModel:
    if not folder.exists():
        raise ModelNotFound(not_an_id_message(model))
    check_model_folder(folder)
    folder = folder.resolve()
    if folder == demo_model_path().resolve():
        return _resolved_demo()
    is_snapshot = folder.parent.name == "snapshots"
    return ResolvedModel(folder, folder.name, is_demo=False, revision=folder.name if is_snapshot else None)


def _ways_out(model: str) -> str:
    return f"Fetch it with `scribewire pull {model}`, or take the bundled demo model with `--model demo`"


def _cached_snapshot(model: str, hub: HubAccess) -> Path | None:
    """The newest snapshot in the cache, whole or not, without a network call."""
    try:
        folder = huggingface_hub.snapshot_download(model, cache_dir=hub.cache, local_files_only=True)
    except IncompleteSnapshotError as error:
        # Files are missing that some other tool wanted, or that are not needed here; check_model_folder judges.
        folder = error.snapshot_path
    except LocalEntryNotFoundError:
        return None
    return Path(folder)


def _what_is_missing(model: str, found: Path | None) -> EngineError | None:
    """The reason why a cached snapshot cannot be used, None when it can."""
    if found is None:
        return ModelNotFound(f"{model} is not on this disk")
    try:
        check_model_folder(found, remedy=None)
    except (ModelNotFound, ModelIncomplete) as problem:
        return ModelIncomplete(f"{model} is not whole on this disk: {problem}")
    return None


def _pulled_for_use(model: str, problem: EngineError, progress: Progress | None, hub: HubAccess) -> Path:
    try:
        return pull(model, progress=progress, hub=hub)
    except EngineError as error:
        raise ModelNotFound(f"{problem} and cannot be fetched: {error}. {_ways_out(model)}") from error
