"""The config file: TOML that holds settings by name, and nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scribewire.engine.processes.arguments import nearest


class SettingsError(Exception):
    """A setting that cannot be used; the message is one line and names the setting and its source."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file's values, with the types of TOML."""

    path: Path
    values: dict[str, Any]


def read_config_file(path: Path, known: Collection[str], *, must_exist: bool) -> ConfigFile:
    """The file's values, none for an optional file that does not exist; raises SettingsError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise SettingsError(f"config file {path} does not exist") from None
        return ConfigFile(path, {})
    except OSError as error:
        raise SettingsError(f"config file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, thousands of digits or brackets
        raise SettingsError(f"config file {path} cannot be read: {error}") from None
    if unknown := sorted(set(values) - set(known)):
        shown = ", ".join(name + nearest(name, known) for name in unknown)
        raise SettingsError(f"config file {path} has unknown settings: {shown}")
    return ConfigFile(path, values)
