"""The server's one configuration object, and the only reader of the environment and of the config file.

Every default and every help text is written once, on the field; flags and the table of settings derive from it.
A value comes from the flag, else from `SCRIBEWIRE_<FIELD>`, else from `scribewire.toml`, else from the default.
Refuses unknown names in the config file and values outside their range, naming their source; an unknown variable that
is nearly a setting's is told of.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from scribewire.engine.processes.arguments import nearest
from scribewire.engine.protocol.config import AUTO_ALIGNER, DEFAULT_MODEL, AudioLimits, EngineConfig
from scribewire.engine.protocol.speakers import DEFAULT_DIARIZATION_MODEL
from scribewire.server.engine.restarts import RestartPolicy
from scribewire.server.engine.watchdog import WatchLimits
from scribewire.server.settings import types as setting_types
from scribewire.server.settings.toml import ConfigFile, read_config_file
from scribewire.server.settings.toml import SettingsError as SettingsError  # most callers know it from here
from scribewire.server.webhooks.targets import allowed_targets

ENVIRONMENT_PREFIX = "SCRIBEWIRE_"
CONFIG_FILE_NAME = "scribewire.toml"
LOG_FORMATS = ("auto", "text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
DTYPES = ("auto", "float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "gpu")


def _setting(default: Any, parse: Callable[[Any], Any], help: str, **more: str) -> Any:
    """A field with its parser and its help text. more: `metavar`, and `shown`, the default in words."""
    return field(
        default=default, metadata={"parse": parse, "help": help, "shown": None, "metavar": None, **more}
    )


def default_data_folder() -> Path:
    """Default folder of keys, jobs and unfinished uploads."""
    return Path(platformdirs.user_data_dir("scribewire", appauthor=False))


def default_config_file() -> Path:
    """Path of the config file that is read when none is named."""
    return Path(platformdirs.user_config_dir("scribewire", appauthor=False)) / CONFIG_FILE_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of the server; see each field's help."""

    host: str = _setting(
        "127.0.0.1",
        setting_types.text,
        "Address to listen on. Any other than a loopback address needs an API key first.",
        metavar="ADDRESS",
    )
    port: int = _setting(
        8765, setting_types.integer(0, 65535), "Port to listen on; 0 takes a free one.", metavar="PORT"
    )
    model: str = _setting(
        DEFAULT_MODEL, setting_types.text, "A folder, a Hugging Face id, or `demo`.", metavar="MODEL"
    )
    model_alias: tuple[str, ...] = _setting(
        (),
        setting_types.names,
        "A further name of the model for clients; may be repeated.",
        shown="none",
        metavar="NAME",
    )
    any_model: bool = _setting(False, setting_types.boolean, "Take every name of a model for the one served.")
    device: str = _setting(
        "auto", setting_types.choice(*DEVICES), "Where the model computes: auto, cpu or gpu."
    )
    dtype: str = _setting(
        "auto",
        setting_types.choice(*DTYPES),
        "Number type of the computation; auto is float32 on the CPU and bfloat16 on a GPU.",
    )
    offline: bool = _setting(
        False, setting_types.boolean, "Never contact the Hugging Face hub, even when files are missing."
    )
    max_batch_rows: int = _setting(
        0, setting_types.integer(0, 1024), "Sequences decoded together at most; 0 chooses by the device."
    )
    max_chunk_seconds: float = _setting(
        EngineConfig().max_chunk_seconds,
        setting_types.seconds(2, 180),
        "Longest stretch of a recording that is decoded at once.",
    )
    min_chunk_seconds: float = _setting(
        EngineConfig().min_chunk_seconds,
        setting_types.seconds(0, 179),
        "Shortest stretch before a cut, in seconds; 0 is two thirds of the longest.",
    )
    memory_limit_bytes: int = _setting(
        0,
        setting_types.size_or_zero,
        "Memory for weights, caches and buffers together (`6GiB`); 0 chooses by the machine.",
    )
    idle_unload_minutes: float = _setting(
        0.0,
        setting_types.minutes,
        "Unload the model after this many minutes without work; the next request loads it again. 0 keeps it.",
    )
    draft_model: str = _setting(
        "",
        setting_types.text_or_empty,
        "A smaller draft model that guesses ahead for a lone request; it seldom gains, which the start says.",
        shown="none",
        metavar="MODEL",
    )
    aligner: str = _setting(
        AUTO_ALIGNER,
        setting_types.text,
        "The forced aligner that times words: a folder, a Hugging Face id, `auto` (the published one; the demo model "
        "has its own) or `none`. Loaded when words are first asked for.",
        metavar="MODEL",
    )
    preload_aligner: bool = _setting(
        False,
        setting_types.boolean,
        "Load the aligner with the model, fetching it first if it is not on disk.",
    )
    diarization_model: str = _setting(
        DEFAULT_DIARIZATION_MODEL,
        setting_types.text,
        "The pyannote.audio pipeline for diarization (extra `speakers`): a folder or a Hugging Face id.",
        metavar="MODEL",
    )
    diarization_device: str = _setting(
        "auto",
        setting_types.choice("auto", "cpu", "cuda", "mps"),
        "Device of the diarization: auto, cpu, cuda or mps.",
    )
    diarization_timeout_seconds: float = _setting(
        7200.0, setting_types.seconds(1, 86_400), "Longest time for the diarization of one recording."
    )
    diarization_memory_bytes: int = _setting(
        8 << 30, setting_types.size, "Memory limit of the diarization process.", shown="8GiB"
    )
    data: Path = field(
        default_factory=default_data_folder,
        metadata={
            "parse": setting_types.folder,
            "help": "Folder of keys, jobs and unfinished uploads; one server uses it at a time.",
            "shown": "the platform's user data folder",
            "metavar": "DIR",
        },
    )
    allow_host: tuple[str, ...] = _setting(
        (),
        setting_types.names,
        "A further Host name to accept while no key is required (`name` or `name:port`); may be repeated.",
        shown="none",
        metavar="HOST",
    )
    allow_origin: tuple[str, ...] = _setting(
        (),
        setting_types.names,
        "An Origin (`https://name`) whose pages may call the server from a browser, or `*` for all; may be repeated.",
        shown="none",
        metavar="ORIGIN",
    )
    allow_callback: tuple[str, ...] = _setting(
        (),
        allowed_targets,
        "An allowed target of a job's `callback_url`: a host, `host:port` or the beginning of a URL; may be repeated.",
        shown="none",
        metavar="TARGET",
    )
    max_upload_bytes: int = _setting(
        # Three hours of 16-bit stereo at 44.1 kHz are 1.9 GB: the largest recording that is still usual.
        2 << 30,
        setting_types.size,
        "Largest recording accepted, in bytes (`500MiB` and `2GiB` are understood).",
        shown="2GiB",
    )
    max_json_body_bytes: int = _setting(
        40 << 20, setting_types.size, "Largest JSON body; larger recordings are sent as forms.", shown="40MiB"
    )
    max_concurrent_uploads: int = _setting(
        64, setting_types.integer(1, 10_000), "Uploads received at once; further ones get 429."
    )
    upload_idle_seconds: float = _setting(
        10.0, setting_types.seconds(0.1, 3600), "An upload that sends nothing for this time is dropped."
    )
    min_upload_bytes_per_second: int = _setting(
        16 << 10,
        setting_types.integer(0, 1 << 40),
        "An upload slower than this over 10 s in which half of the upload places were taken is dropped; 0 allows any.",
    )
    header_timeout_seconds: float = _setting(
        10.0,
        setting_types.seconds(0.1, 3600),
        "A connection whose request headers are incomplete after this time is closed.",
    )
    max_connections: int = _setting(
        1024, setting_types.integer(8, 100_000), "Connections open at once; further ones are closed at once."
    )
    key_requests_per_minute: int = _setting(
        0,
        setting_types.integer(0, 1_000_000),
        "Recordings that one key may submit in a minute; 0 is unlimited.",
    )
    key_concurrent_uploads: int = _setting(
        0,
        setting_types.integer(0, 10_000),
        "Uploads that one key may send at once; 0 is unlimited.",
    )
    key_queued_recordings: int = _setting(
        0,
        setting_types.integer(0, 1_000_000),
        "Recordings that one key may have unfinished at once; 0 is unlimited.",
    )
    key_streams: int = _setting(
        0,
        setting_types.integer(0, 100_000),
        "Event streams that one key (one address without keys) may hold open; 0 is an eighth of the connections.",
    )
    retry_window_seconds: float = _setting(
        600.0,
        setting_types.seconds(0, 86_400),
        "The same recording with the same parameters from the same key within this time takes the first one's result; "
        "0 decodes it again.",
    )
    allow_local_files: tuple[str, ...] = _setting(
        (),
        setting_types.names,
        "A folder whose files a JSON request may name by `file_path`; may be repeated.",
        shown="none",
        metavar="DIR",
    )
    decode_processes: int = _setting(
        3,
        setting_types.integer(1, 64),
        "Child processes that turn uploads into samples, kept warm; of several, one is left to short recordings.",
    )
    decode_timeout_seconds: float = _setting(
        600.0,
        setting_types.seconds(1, 86_400),
        "Longest time for transcoding one recording, in CPU time and on the clock.",
    )
    decode_memory_bytes: int = _setting(
        512 << 20, setting_types.size, "Memory limit of one transcoding child.", shown="512MiB"
    )
    max_duration_seconds: float = _setting(
        AudioLimits().max_duration_seconds, setting_types.seconds(1, 7 * 86400), "Longest recording accepted."
    )
    max_queued_requests: int = _setting(
        256,
        setting_types.integer(1, 100_000),
        "Recordings waiting for the engine or in flight; further ones get 429.",
    )
    request_timeout_seconds: float = _setting(
        # OpenAI's SDKs time out after 600 s by default; other clients wait longer for long recordings.
        3600.0,
        setting_types.seconds(1, 7 * 86400),
        "Longest time that one synchronous request may wait for its transcript.",
    )
    load_timeout_seconds: float = _setting(
        1800.0, setting_types.seconds(1, 86400), "Longest time that the model may take to download and load."
    )
    restart_wait_seconds: float = _setting(
        15.0,
        setting_types.seconds(0, 3600),
        "How long a request waits for an engine that is starting before it gets 503.",
    )
    restart_backoff_seconds: tuple[float, ...] = _setting(
        RestartPolicy().backoff_seconds,
        setting_types.several_seconds(0, 3600),
        "Pauses before a dead engine is restarted, after the first death, the second, and so on.",
        shown="0,1,2,5,15,30",
    )
    breaker_deaths: int = _setting(
        RestartPolicy().breaker_deaths,
        setting_types.integer(1, 1_000_000),
        "Deaths of the engine within the window that open the circuit breaker: no restart, and requests get 503.",
    )
    breaker_window_seconds: float = _setting(
        RestartPolicy().breaker_window_seconds,
        setting_types.seconds(1, 86_400),
        "Window in which deaths of the engine are counted.",
    )
    breaker_pause_seconds: float = _setting(
        RestartPolicy().breaker_pause_seconds,
        setting_types.seconds(0.1, 86_400),
        "Pause of the circuit breaker before the engine is tried once more.",
    )
    stall_seconds: float = _setting(
        WatchLimits().stall_seconds,
        setting_types.seconds(1, 86_400),
        "An engine without progress for this time, and for ten times a chunk's usual time, is replaced.",
    )
    drain_seconds: float = _setting(
        20.0, setting_types.seconds(0, 3600), "Time that a stopping server gives running requests to finish."
    )
    store: bool = _setting(
        True,
        setting_types.boolean,
        "Keep jobs in the data folder, where they survive a restart; `--no-store` keeps them in memory.",
    )
    max_jobs: int = _setting(
        10_000, setting_types.integer(1, 1_000_000), "Jobs unfinished at once; further ones get 429."
    )
    max_running_jobs: int = _setting(
        8,
        setting_types.integer(1, 1024),
        "Jobs transcoded or in flight at once; of several places, one is left to short recordings.",
    )
    keep_results_days: float = _setting(
        30.0, setting_types.days, "How long a finished job and its result are kept."
    )
    keep_failed_audio_days: float = _setting(
        7.0, setting_types.days, "How long a failed job's recording is kept, so that it can be retried."
    )
    keep_audio: bool = _setting(
        False, setting_types.boolean, "Keep the recordings of completed jobs as long as their results."
    )
    log_level: str = _setting("info", setting_types.choice(*LOG_LEVELS), "debug, info, warning or error.")
    log_format: str = _setting(
        "auto",
        setting_types.choice(*LOG_FORMATS),
        "How log lines are written: text for people, json for programs; auto is text on a terminal and json elsewhere.",
    )

    def __post_init__(self) -> None:
        """Refuse values that exclude each other; raises SettingsError."""
        if self.min_chunk_seconds >= self.max_chunk_seconds:
            raise SettingsError(
                f"--min-chunk-seconds must be below --max-chunk-seconds ({self.max_chunk_seconds:g})"
            )

    def engine_config(self) -> EngineConfig:
        """Configuration of the engine's worker."""
        return EngineConfig(
            model=self.model,
            dtype=self.dtype,
            device=self.device,
            offline=self.offline,
            max_chunk_seconds=self.max_chunk_seconds,
            min_chunk_seconds=self.min_chunk_seconds,
            max_batch_rows=self.max_batch_rows,
            memory_limit_bytes=self.memory_limit_bytes,
            idle_unload_seconds=60.0 * self.idle_unload_minutes,
            draft_model=self.draft_model or None,
            aligner=self.aligner,
            preload_aligner=self.preload_aligner,
            audio=AudioLimits(max_duration_seconds=self.max_duration_seconds),
        )

    @classmethod
    def from_sources(
        cls,
        arguments: argparse.Namespace | None = None,
        environ: Mapping[str, str] | None = None,
        config_file: Path | None = None,
    ) -> Settings:
        """Settings from flags, environment, config file and defaults, in that order of precedence.

        environ: None for the process's own.
        config_file: a file that must exist; None to try `SCRIBEWIRE_CONFIG` and then the user's config folder.
        raises: SettingsError
        """
        environ = os.environ if environ is None else environ
        in_file = _read_config_file(config_file, environ)
        chosen: dict[str, Any] = {}
        for setting in fields(cls):
            name = setting.name
            flag = getattr(arguments, name, None)
            variable = ENVIRONMENT_PREFIX + name.upper()
            if flag is not None:
                chosen[name] = _parsed(setting, flag, flag_name(name))
            elif variable in environ:
                chosen[name] = _parsed(setting, environ[variable], variable)
            elif name in in_file.values:
                chosen[name] = _parsed(setting, in_file.values[name], f"{name} in {in_file.path}")
        return cls(**chosen)


def _parsed(setting: Field[Any], value: Any, source: str) -> Any:
    try:
        return setting.metadata["parse"](value)
    except ValueError as error:
        raise SettingsError(f"{source} {error}, not {str(value)[:80]!r}") from None


def _read_config_file(named: Path | None, environ: Mapping[str, str]) -> ConfigFile:
    if named is None and (from_environment := environ.get(ENVIRONMENT_PREFIX + "CONFIG")):
        named = Path(from_environment).expanduser()
    known = {setting.name for setting in fields(Settings)}
    return read_config_file(named or default_config_file(), known, must_exist=named is not None)


def misspelt_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each variable that is none of ours and nearly is.

    Others are left alone: Kubernetes sets SCRIBEWIRE_PORT_8765_TCP and the like for a service of this name.
    """
    known = [setting.name.upper() for setting in fields(Settings)] + ["CONFIG", "KEY", "SERVER"]
    given = sorted(os.environ if environ is None else environ)
    names = [one.removeprefix(ENVIRONMENT_PREFIX) for one in given if one.startswith(ENVIRONMENT_PREFIX)]
    unknown = [name for name in names if name not in known]
    hints = {name: nearest(name, known, prefix=ENVIRONMENT_PREFIX) for name in unknown}
    return [f"{ENVIRONMENT_PREFIX}{name} is no setting{hint}" for name, hint in hints.items() if hint]


def client_variables(environ: Mapping[str, str] | None = None) -> tuple[str | None, str | None]:
    """Server and key from the environment, for the commands that connect to a running server."""
    environ = os.environ if environ is None else environ
    return environ.get(ENVIRONMENT_PREFIX + "SERVER") or None, environ.get(ENVIRONMENT_PREFIX + "KEY") or None


def flag_name(name: str) -> str:
    """`max_upload_bytes` as the flag `--max-upload-bytes`."""
    return "--" + name.replace("_", "-")
