"""Settings as flags of a command, in groups."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from scribewire.server.settings.fields import CONFIG_FILE_NAME, Settings, flag_name
from scribewire.server.settings.types import METAVARS

GROUPS = {
    "host": "address",
    "model": "model and device",
    "aligner": "times of words",
    "diarization_model": "speakers",
    "data": "data and access",
    "max_upload_bytes": "uploads and connections",
    "key_requests_per_minute": "limits of one key",
    "retry_window_seconds": "recordings",
    "max_queued_requests": "queue and engine",
    "store": "jobs",
    "log_level": "log",
}
"""Titles of the groups, each by its first setting, in the order of the fields."""


def add_settings_arguments(parser: argparse.ArgumentParser, *, only: Sequence[str] | None = None) -> None:
    """Give a parser one flag per setting, in groups, or one per setting named in `only`.

    Flags default to None, so that `Settings.from_sources` can recognize a flag that was not given. Values stay as typed
    and are checked there, which gives flags, environment and file the same rules and the same messages.
    """
    group: argparse._ActionsContainer = parser
    for setting in fields(Settings):
        if only is not None and setting.name not in only:
            continue
        if only is None and setting.name in GROUPS:
            group = parser.add_argument_group(GROUPS[setting.name])
        options: dict[str, Any] = {"dest": setting.name, "default": None}
        shown = shown_default(setting)
        options["help"] = f"{setting.metadata['help']} (default: {shown})".replace("%", "%%").replace("`", "")
        if isinstance(setting.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = setting.metadata["metavar"] or METAVARS[setting.metadata["parse"]]
            if isinstance(setting.default, tuple):
                options["action"] = "append"
        group.add_argument(flag_name(setting.name), **options)


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Give a parser `--config FILE`, whose value goes to `Settings.from_sources` as `config_file`."""
    parser.add_argument(
        "--config",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"config file to read (default: {CONFIG_FILE_NAME} in the platform's user config folder, if there)",
    )


def shown_default(setting: Field[Any]) -> str:
    """A setting's default as help texts and documents show it."""
    if setting.metadata["shown"] is not None:
        return str(setting.metadata["shown"])
    if isinstance(setting.default, bool):
        return "on" if setting.default else "off"
    if isinstance(setting.default, float):
        return f"{setting.default:g}"
    return str(setting.default)
