"""Settings: one place for defaults, one order of precedence, one line when something is wrong."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path

import pytest

from scribewire.engine.protocol.config import DEFAULT_MODEL
from scribewire.server.settings.fields import Settings, SettingsError, flag_name, misspelt_variables
from scribewire.server.settings.flags import (
    GROUPS,
    add_config_argument,
    add_settings_arguments,
)
from scribewire.server.settings.types import size, size_in_words
from tests.fakes.documents import settings_table


@pytest.fixture(autouse=True)
def nothing_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SCRIBEWIRE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(
        "scribewire.server.settings.fields.default_config_file", lambda: tmp_path / "none" / "scribewire.toml"
    )


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_settings_arguments(parser)
    add_config_argument(parser)
    return parser.parse_args(arguments)


def test_defaults_are_safe():
    settings = Settings.from_sources()
    assert settings == Settings()
    assert (settings.host, settings.port, settings.model) == ("127.0.0.1", 8765, DEFAULT_MODEL)
    assert settings.keep_audio is False
    assert settings.max_upload_bytes == 2 * 1024**3
    assert settings.data.is_absolute()


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path):
    file = tmp_path / "scribewire.toml"
    file.write_text('port = 1001\nmodel = "from-file"\nlog_level = "error"\n')
    environ = {"SCRIBEWIRE_PORT": "1002", "SCRIBEWIRE_MODEL": "from-environment", "PORT": "9"}
    settings = Settings.from_sources(parsed("--port", "1003"), environ, file)
    assert (settings.port, settings.model, settings.log_level) == (1003, "from-environment", "error")
    assert settings.host == Settings().host


def test_config_file_is_found_by_the_environment_and_by_its_usual_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "scribewire.toml"
    file.write_text("port = 1001\n")
    assert Settings.from_sources(environ={"SCRIBEWIRE_CONFIG": str(file)}).port == 1001
    monkeypatch.setattr("scribewire.server.settings.fields.default_config_file", lambda: file)
    assert Settings.from_sources().port == 1001


@pytest.mark.parametrize("shortest", [30.0, 31.0])
def test_shortest_chunk_that_is_not_below_the_longest_is_refused(shortest: float):
    with pytest.raises(SettingsError, match="--min-chunk-seconds must be below --max-chunk-seconds"):
        Settings(min_chunk_seconds=shortest)


def test_every_setting_can_come_from_every_source(tmp_path: Path):
    values = {
        "host": ("::1", "::1"), "port": ("80", 80), "model": ("demo", "demo"), "model_alias": ("a,b/c", ("a", "b/c")),
        "any_model": ("yes", True), "device": ("cpu", "cpu"),
        "dtype": ("float16", "float16"), "offline": ("true", True), "data": ("/srv/x", Path("/srv/x")),
        "allow_callback": ("a.example,https://b/x/", ("a.example", "https://b/x/")),
        "allow_host": ("a,b", ("a", "b")), "allow_origin": ("https://a", ("https://a",)),
        "max_upload_bytes": ("500MiB", 500 << 20), "max_json_body_bytes": ("9MiB", 9 << 20),
        "max_concurrent_uploads": ("3", 3),
        "upload_idle_seconds": ("2.5", 2.5), "max_duration_seconds": ("60", 60.0),
        "max_queued_requests": ("7", 7), "request_timeout_seconds": ("9", 9.0),
        "load_timeout_seconds": ("8", 8.0), "restart_wait_seconds": ("0", 0.0), "drain_seconds": ("1", 1.0),
        "max_jobs": ("4", 4), "max_running_jobs": ("22", 22), "store": ("no", False), "keep_results_days": ("5", 5.0),
        "keep_failed_audio_days": ("0.5", 0.5), "keep_audio": ("on", True), "log_level": ("debug", "debug"),
            "log_format": ("text", "text"),
        "max_batch_rows": ("9", 9), "memory_limit_bytes": ("2GiB", 2 << 30),
        "idle_unload_minutes": ("1.5", 1.5), "draft_model": ("small", "small"),
            "aligner": ("none", "none"), "preload_aligner": ("true", True),
        "diarization_model": ("x/y", "x/y"), "diarization_device": ("cpu", "cpu"),
        "diarization_timeout_seconds": ("60", 60.0), "diarization_memory_bytes": ("2GiB", 2 << 30),
        "min_upload_bytes_per_second": ("11", 11), "header_timeout_seconds": ("6", 6.0),
        "max_connections": ("12", 12), "key_requests_per_minute": ("13", 13),
        "key_concurrent_uploads": ("14", 14), "key_queued_recordings": ("15", 15),
        "key_streams": ("17", 17),
        "retry_window_seconds": ("16", 16.0), "allow_local_files": ("/srv/a,/srv/b", ("/srv/a", "/srv/b")),
        "decode_processes": ("3", 3), "decode_timeout_seconds": ("17", 17.0),
        "decode_memory_bytes": ("1GiB", 1 << 30),
        "restart_backoff_seconds": ("0,1.5", (0.0, 1.5)), "breaker_deaths": ("18", 18),
        "breaker_window_seconds": ("19", 19.0), "breaker_pause_seconds": ("20", 20.0),
        "stall_seconds": ("21", 21.0),
        "max_chunk_seconds": ("40", 40.0), "min_chunk_seconds": ("25", 25.0),
    }  # fmt: skip
    assert set(values) == {field.name for field in fields(Settings)}
    expected = Settings(**{name: value for name, (_, value) in values.items()})
    environ = {f"SCRIBEWIRE_{name.upper()}": text for name, (text, _) in values.items()}
    assert Settings.from_sources(environ=environ) == expected
    file = tmp_path / "scribewire.toml"
    file.write_text("".join(f'{name} = "{text}"\n' for name, (text, _) in values.items()))
    assert Settings.from_sources(config_file=file) == expected
    flags = [
        part
        for name, (text, value) in values.items()
        for part in (
            [flag_name(name) if value else flag_name(f"no_{name}")]
            if isinstance(value, bool)
            else [flag_name(name), text]
        )
    ]
    assert Settings.from_sources(parsed(*flags)) == expected


def test_typed_values_of_the_file_are_taken(tmp_path: Path):
    file = tmp_path / "scribewire.toml"
    file.write_text(
        'port = 1\noffline = true\nallow_host = ["a", "b:1"]\nmax_upload_bytes = 5\ndrain_seconds = 2\n'
    )
    settings = Settings.from_sources(config_file=file)
    assert settings.offline is True
    assert settings.allow_host == ("a", "b:1")
    assert (settings.max_upload_bytes, settings.drain_seconds) == (5, 2.0)


def test_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIBEWIRE_PORT", "1004")
    assert Settings.from_sources().port == 1004
    assert Settings.from_sources(environ={}).port == 8765


def test_repeated_flags_and_switched_off_flags():
    settings = Settings.from_sources(
        parsed("--allow-host", "a", "--allow-host", "b", "--no-keep-audio"), {"SCRIBEWIRE_KEEP_AUDIO": "1"}
    )
    assert settings.allow_host == ("a", "b")
    assert settings.keep_audio is False


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "70000"), ("PORT", "-1"), ("PORT", "http"), ("PORT", ""), ("DRAIN_SECONDS", "nan"),
        ("DRAIN_SECONDS", "inf"), ("DRAIN_SECONDS", "-1"), ("MAX_UPLOAD_BYTES", "0"), ("MAX_UPLOAD_BYTES", "lots"),
        ("LOG_LEVEL", "loud"), ("DTYPE", "int8"), ("OFFLINE", "perhaps"), ("HOST", " "), ("MAX_JOBS", "0"),
        ("MAX_JOBS", "1.5"),
    ],
)  # fmt: skip
def test_unusable_value_is_one_line_naming_its_source(variable: str, value: str):
    with pytest.raises(SettingsError) as refused:
        Settings.from_sources(environ={f"SCRIBEWIRE_{variable}": value})
    assert str(refused.value).startswith(f"SCRIBEWIRE_{variable} must be")
    assert "\n" not in str(refused.value)


def test_unusable_flag_and_file_value_name_their_source(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"^--port must be"):
        Settings.from_sources(parsed("--port", "x"))
    file = tmp_path / "scribewire.toml"
    for text in ("port = true", "port = 1.5", 'port = "x"', "port = [1]"):
        file.write_text(text)
        with pytest.raises(SettingsError, match=r"^port in .*scribewire\.toml must be"):
            Settings.from_sources(config_file=file)


def test_unknown_missing_and_damaged_config_files_are_refused(tmp_path: Path):
    file = tmp_path / "scribewire.toml"
    with pytest.raises(SettingsError, match="does not exist"):
        Settings.from_sources(config_file=file)
    file.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"unknown settings: prot \(did you mean port\?\)"):
        Settings.from_sources(config_file=file)
    file.write_text("port = \n")
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings.from_sources(config_file=file)


def test_table_names_every_setting_and_no_path_of_this_machine():
    table = settings_table()
    rows = table.splitlines()[2:]
    assert len(rows) == len(fields(Settings))
    for setting in fields(Settings):
        row = next(row for row in rows if f"`{flag_name(setting.name)}`" in row)
        assert f"`SCRIBEWIRE_{setting.name.upper()}`" in row
        assert setting.metadata["help"] in row
    assert str(Path.home()) not in table


def test_help_shows_every_default(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: 8765)" in shown
    assert "(default: 2GiB)" in shown


def test_help_has_groups_and_says_what_a_value_is(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    for title in GROUPS.values():
        assert f"\n{title}:\n" in shown
    for flag in (
        "--host ADDRESS",
        "--device {auto,cpu,gpu}",
        "--key-requests-per-minute N",
        "--max-upload-bytes SIZE",
        "--min-upload-bytes-per-second N",
        "--idle-unload-minutes MINUTES",
        "--keep-results-days DAYS",
    ):
        assert f"  {flag}" in shown
    assert next(iter(GROUPS)) == fields(Settings)[0].name
    assert GROUPS.keys() <= {setting.name for setting in fields(Settings)}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("KEEP_RESULTS_DAYS", "x", "must be a number of days"),
        ("KEEP_RESULTS_DAYS", "9999", "must be from 0 to 3660 days"),
        ("IDLE_UNLOAD_MINUTES", "-1", "must be from 0 to 527040 minutes"),
        ("STALL_SECONDS", "0", "must be from 1 to 86400 seconds"),
    ],
)
def test_refusal_has_the_unit_that_was_typed(variable: str, value: str, message: str):
    with pytest.raises(SettingsError, match=message):
        Settings.from_sources(environ={f"SCRIBEWIRE_{variable}": value})


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("2GiB", "2 GiB"), ("500m", "500 MiB"), ("1000", "1000 bytes"), ("1536k", "1536 KiB")],
)
def test_size_is_shown_as_it_would_be_typed(typed: str, shown: str):
    assert size_in_words(size(typed)) == shown


def test_misspelt_variable_is_told_of_and_others_are_left_alone():
    environ = dict.fromkeys(
        ("SCRIBEWIRE_MODLE", "SCRIBEWIRE_KEY", "SCRIBEWIRE_PORT_8765_TCP_ADDR", "SCRIBEWIRE_PORT", "MODLE"),
        "x",
    )
    assert misspelt_variables(environ) == ["SCRIBEWIRE_MODLE is no setting (did you mean SCRIBEWIRE_MODEL?)"]


def test_only_some_settings_can_be_asked_for():
    parser = argparse.ArgumentParser()
    add_settings_arguments(parser, only=("data",))
    assert Settings.from_sources(parser.parse_args(["--data", "/srv/x"])).data == Path("/srv/x")
    assert not hasattr(parser.parse_args([]), "port")


def test_engine_is_configured_from_the_same_settings():
    config = Settings(
        model="demo", device="cpu", dtype="float32", offline=True, max_duration_seconds=9
    ).engine_config()
    assert (config.model, config.device, config.dtype, config.offline) == ("demo", "cpu", "float32", True)
    assert config.audio.max_duration_seconds == 9
