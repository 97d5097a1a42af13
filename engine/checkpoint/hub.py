"""Access to the hub and its cache, and the form of its ids. Makes no network call."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants as hub_constants

from scribewire.engine.checkpoint.published import nearest_published_ids

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)


Progress = Callable[[int, int], None]
"""Called now and then during a download with the bytes on disk and the bytes in all."""


@dataclass(frozen=True, slots=True)
class HubAccess:
    """Access to the hub and its cache; None leaves the choice to huggingface_hub and its own settings.

    retry_waits_seconds: pauses before the hub is tried again when nothing came; the count restarts with every byte.
    timeout_seconds: longest silence on a connection.
    """

    endpoint: str | None = None
    cache_folder: Path | None = None
    retry_waits_seconds: tuple[float, ...] = (1.0, 2.0, 4.0)
    timeout_seconds: float = 20.0

    @property
    def address(self) -> str:
        """The hub's URL."""
        return (self.endpoint or hub_constants.ENDPOINT).rstrip("/")

    @property
    def host(self) -> str:
        """The hub's name, for messages."""
        return urlsplit(self.address).netloc or self.address

    @property
    def cache(self) -> Path:
        """The cache that Hugging Face's tools share."""
        return (self.cache_folder or Path(hub_constants.HF_HUB_CACHE)).expanduser().absolute()

    def repository_folder(self, model_id: str) -> Path:
        """The cache's folder for one repository."""
        return self.cache / ("models--" + model_id.replace("/", "--"))


def is_hub_id(model: str) -> bool:
    """True when this reads as `owner/name`."""
    return _HUB_ID.fullmatch(model) is not None and ".." not in model


def not_an_id_message(model: str) -> str:
    """One line for a name that is neither a folder, nor an id, nor the demo; names the published ids nearest."""
    near = nearest_published_ids(model)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"{model!r} is no folder, no Hugging Face id (owner/name) and not `demo`.{hint}"
