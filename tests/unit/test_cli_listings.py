"""`scribewire models`, `pull` and `languages` against a hub on loopback and a cache of their own."""

import io
import json
from pathlib import Path

import pytest

from scribewire.engine.checkpoint.fetch import HubAccess
from scribewire.engine.checkpoint.published import PUBLISHED_MODELS, nearest_published_ids
from scribewire.engine.cli import main
from scribewire.engine.processes.console import Console
from scribewire.engine.protocol.config import DEFAULT_ALIGNER
from scribewire.engine.protocol.languages import LANGUAGES
from tests.fakes.fake_hub import FakeHub, model_files
from tests.fakes.transcribe_command import Terminal

MODEL = "mlx-community/Qwen3-ASR-0.6B-8bit"


@pytest.fixture
def hub(tmp_path: Path):
    files = model_files()
    files["config.json"] = json.dumps({"model_type": "qwen3_asr"}).encode()
    with FakeHub(
        {MODEL: files, "someone/Other-ASR": files, "someone/llm": {"config.json": b"{}"}}
    ).serving() as fake:
        yield fake


def run(hub: FakeHub, tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    access = HubAccess(hub.address, tmp_path / "cache", retry_waits_seconds=(), timeout_seconds=5)
    code = main(list(arguments), console=Console(io.BytesIO(), out, err), hub=access)
    return code, out.getvalue(), err.getvalue()


def states(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    code, out, _ = run(hub, tmp_path, "models", "--json")
    assert code == 0
    return {model["model_id"]: model["state"] for model in json.loads(out)}


def test_models_lists_every_published_model_without_asking_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    listed = states(hub, tmp_path)
    assert {model.model_id for model in PUBLISHED_MODELS} < set(listed)
    assert len(PUBLISHED_MODELS) == 21
    assert listed[MODEL] == "not on disk"
    assert hub.requests == []


def test_defaults_are_marked_on_a_narrow_terminal_too(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    access = HubAccess(hub.address, tmp_path / "cache", retry_waits_seconds=(), timeout_seconds=5)
    main(["models"], console=Console(io.BytesIO(), out := Terminal(), io.StringIO()), hub=access)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if "default" in line] == [MODEL, DEFAULT_ALIGNER]


def test_pulled_models_are_listed_as_complete(hub: FakeHub, tmp_path: Path) -> None:
    code, out, err = run(hub, tmp_path, "pull", MODEL)
    assert (code, err) == (0, "")
    assert out.startswith(f"{MODEL} is complete: ")
    run(hub, tmp_path, "pull", "someone/Other-ASR")
    listed = states(hub, tmp_path)
    assert listed[MODEL] == "complete"
    assert listed["someone/Other-ASR"] == "complete"


def test_half_a_download_is_listed_with_what_completes_it(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [70_000]
    code, out, err = run(hub, tmp_path, "pull", MODEL)
    assert (code, out) == (1, "")
    assert "goes on from there" in err
    assert states(hub, tmp_path)[MODEL] == "half-downloaded"
    _, out, err = run(hub, tmp_path, "models")
    assert f"`scribewire pull {MODEL}` completes it" in err
    assert run(hub, tmp_path, "pull", MODEL)[0] == 0
    assert states(hub, tmp_path)[MODEL] == "complete"


def test_models_of_another_kind_are_left_out(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "models--someone--llm" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder.parent.parent / "refs").mkdir()
    (folder.parent.parent / "refs" / "main").write_text("a" * 40)
    assert "someone/llm" not in states(hub, tmp_path)


def test_sizes_are_those_of_the_published_files() -> None:
    sizes = {model.model_id: model.size_bytes for model in PUBLISHED_MODELS}
    # 1.876 GB and 4.698 GB are the sizes of the original repositories; 4,076 MB and 1,603 MB of two MLX ones.
    assert sizes["Qwen/Qwen3-ASR-0.6B"] == pytest.approx(1.876e9, rel=0.01)
    assert sizes["Qwen/Qwen3-ASR-1.7B"] == pytest.approx(4.698e9, rel=0.01)
    assert sizes["mlx-community/Qwen3-ASR-1.7B-bf16"] == pytest.approx(4.076e9, rel=0.01)
    assert sizes["mlx-community/Qwen3-ASR-1.7B-4bit"] == pytest.approx(1.603e9, rel=0.01)
    assert sizes["Qwen/Qwen3-ForcedAligner-0.6B"] == pytest.approx(1.835e9, rel=0.01)
    assert DEFAULT_ALIGNER in sizes


def test_pull_of_the_demo_needs_no_hub(hub: FakeHub, tmp_path: Path) -> None:
    code, out, _ = run(hub, tmp_path, "pull", "demo")
    assert (code, hub.requests) == (0, [])
    assert "bundled" in out


def test_refused_pull_is_one_line_and_code_one(hub: FakeHub, tmp_path: Path) -> None:
    hub.refused[MODEL] = 401
    code, out, err = run(hub, tmp_path, "pull", MODEL)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "private" in err


def test_pull_of_a_name_that_is_no_id_suggests_one(hub: FakeHub, tmp_path: Path) -> None:
    code, _, err = run(hub, tmp_path, "pull", "Qwen3-ASR-0.6B-8bit")
    assert code == 1
    assert MODEL in err


def test_nothing_is_suggested_for_something_else() -> None:
    assert nearest_published_ids("openai/whisper-large-v3") == []


# ---- languages -----------------------------------------------------------------------------------------------


def test_languages_lists_all_thirty_with_their_codes(hub: FakeHub, tmp_path: Path) -> None:
    code, out, _ = run(hub, tmp_path, "languages")
    assert code == 0
    rows = out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [language.code for language in LANGUAGES]
    assert len(rows) == 30


def test_languages_as_json_carries_native_names(hub: FakeHub, tmp_path: Path) -> None:
    rows = json.loads(run(hub, tmp_path, "languages", "--json")[1])
    assert {"name": "Spanish", "code": "es", "native_name": "Español"}.items() <= next(
        row for row in rows if row["code"] == "es"
    ).items()


def test_languages_of_a_model_on_disk_are_read_from_its_config(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    for name, content in model_files().items():
        if "/" not in name:
            (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(small_config(["Spanish", "English"])))
    _, out, err = run(hub, tmp_path, "languages", "--model", str(folder), "--json")
    assert err == ""
    assert [row["name"] for row in json.loads(out)] == ["Spanish", "English"]


def test_languages_of_a_model_that_is_not_here_is_an_error(hub: FakeHub, tmp_path: Path) -> None:
    code, out, err = run(hub, tmp_path, "languages", "--model", MODEL)
    assert (code, out) == (1, "")
    assert "scribewire pull" in err
    assert hub.requests == []


def small_config(languages: list[str]) -> dict[str, object]:
    return {
        "model_type": "qwen3_asr",
        "support_languages": languages,
        "thinker_config": {
            "audio_token_id": 7,
            "audio_config": {
                "d_model": 64,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 64,
                "output_dim": 64,
                "num_mel_bins": 128,
                "downsample_hidden_size": 16,
                "n_window": 50,
                "n_window_infer": 800,
            },
            "text_config": {
                "hidden_size": 64,
                "num_hidden_layers": 1,
                "intermediate_size": 64,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "head_dim": 128,
                "vocab_size": 100,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e6,
                "max_position_embeddings": 1000,
            },
        },
    }
