"""The forced aligner that belongs to a model, and its folder; loads nothing."""

from __future__ import annotations

from pathlib import Path

from scribewire.engine.checkpoint.fetch import HubAccess, Progress, ResolvedModel, pull, resolve_model
from scribewire.engine.checkpoint.hub import is_hub_id
from scribewire.engine.checkpoint.published import PUBLISHED_ALIGNERS
from scribewire.engine.demo import demo_aligner_path
from scribewire.engine.protocol.config import AUTO_ALIGNER, DEFAULT_ALIGNER, DEMO_MODEL
from scribewire.engine.protocol.errors import AlignerMissing, ModelError


def find_aligner(
    wanted: str,
    *,
    model: str,
    offline: bool = False,
    download: bool = False,
    progress: Progress | None = None,
    hub: HubAccess | None = None,
) -> ResolvedModel:
    """The aligner's folder.

    wanted: a folder, a Hugging Face id, or `auto`: for the demo model its own, for every other the default one, or
    else another published one that is on this disk. model: the recognizer that it is for.
    download: fetch one that is not there, unless `offline` forbids it.
    raises: AlignerMissing saying what to do
    """
    if wanted == AUTO_ALIGNER and model == DEMO_MODEL:
        folder = demo_aligner_path()
        if not folder.is_dir():
            raise AlignerMissing(
                "the demo model has no aligner in this installation, so there are no word times; name one with "
                "--aligner (a folder or a Hugging Face id)"
            )
        return resolve_model(str(folder))
    names = [wanted]
    if wanted == AUTO_ALIGNER:
        published = (one.model_id for one in PUBLISHED_ALIGNERS)
        names = list(dict.fromkeys((DEFAULT_ALIGNER, *published)))
    problems: list[ModelError] = []
    for name in names:
        try:
            return resolve_model(name, offline=True, hub=hub)
        except ModelError as problem:
            problems.append(problem)
    if Path(names[0]).expanduser().exists() or not is_hub_id(names[0]):
        raise AlignerMissing(f"word times need a forced aligner: {problems[0]}") from problems[0]
    if download and not offline:
        try:
            pull(names[0], progress=progress, hub=hub)
            return resolve_model(names[0], offline=True, hub=hub)
        except ModelError as problem:
            raise AlignerMissing(
                f"word times need the forced aligner {names[0]}, which cannot be fetched: {problem}"
            ) from problem
    raise AlignerMissing(
        f"word times need a forced aligner, and {names[0]} is not whole on this disk. Fetch it with "
        f"`scribewire pull {names[0]}`, or name another with --aligner (a folder or a Hugging Face id)"
    ) from problems[0]
