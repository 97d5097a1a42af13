"""Finding and fetching models: the cache without a network, downloads that go on, and errors that say what to do."""

import json
from pathlib import Path

import pytest

from scribewire.engine.checkpoint.fetch import HubAccess, check_model_folder, pull, resolve_model
from scribewire.engine.protocol.errors import DownloadFailed, ModelIncomplete, ModelNotFound
from tests.fakes.fake_hub import COMMIT, FakeHub, etag_of, model_files, safetensors_bytes

MODEL = "someone/Small-ASR"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub():
    with FakeHub({MODEL: model_files()}).serving() as fake:
        yield fake


def access(hub: FakeHub, folder: Path, retries: int = 0) -> HubAccess:
    return HubAccess(
        endpoint=hub.address,
        cache_folder=folder / "cache",
        retry_waits_seconds=(0.0,) * retries,
        timeout_seconds=5,
    )


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in model_files().items():
        if "/" not in name:
            (folder / name).write_bytes(content)
    return folder


# ---- downloads -----------------------------------------------------------------------------------------------


def test_pull_fetches_what_the_model_needs_and_no_pickle(hub: FakeHub, tmp_path: Path) -> None:
    folder = pull(MODEL, hub=access(hub, tmp_path))
    assert sorted(path.name for path in folder.iterdir()) == [
        "added_tokens.json",
        "config.json",
        "merges.txt",
        WEIGHTS,
        "tokenizer_config.json",
        "vocab.json",
    ]
    assert (folder / WEIGHTS).read_bytes() == model_files()[WEIGHTS]
    asked_for = {request.path.rpartition("/")[2] for request in hub.requests}
    assert not asked_for & {"pytorch_model.bin", "README.md", ".gitattributes"}
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_download_that_breaks_off_goes_on_within_the_same_pull(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [70_000]
    folder = pull(MODEL, hub=access(hub, tmp_path, retries=1))
    assert (folder / WEIGHTS).read_bytes() == model_files()[WEIGHTS]
    ranges = [request.byte_range for request in hub.downloads_of(WEIGHTS) if "/large/" in request.path]
    assert ranges == [None, "bytes=70000-"]


def test_second_pull_resumes_where_the_first_broke_off(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [70_000]
    with pytest.raises(DownloadFailed, match=r"broke off in model\.safetensors.*scribewire pull"):
        pull(MODEL, hub=access(hub, tmp_path))
    first = len(hub.requests)
    seen: list[tuple[int, int]] = []
    folder = pull(MODEL, progress=lambda done, total: seen.append((done, total)), hub=access(hub, tmp_path))
    assert (folder / WEIGHTS).read_bytes() == model_files()[WEIGHTS]
    again = [one for one in hub.requests[first:] if one.method == "GET" and "/resolve/" in one.path]
    assert [(one.path.rpartition("/")[2], one.byte_range) for one in again] == [
        (WEIGHTS, "bytes=70000-"),
        ("tokenizer_config.json", None),
    ]
    assert seen[0][0] >= 70_000
    # added_tokens.json and vocab.json are equal, so they are one file in the cache and were here already.
    wanted = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "added_tokens.json"}
    assert seen[-1] == (sum(wanted.values()), sum(wanted.values()))


def test_download_without_a_bar_says_in_the_log_how_far_it_is(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="scribewire.engine.checkpoint.download"):
        resolve_model(MODEL, download=True, hub=access(hub, tmp_path))
    assert f"downloading {MODEL}: 0 of 0 MB (0 %)" in caplog.messages


def test_hub_that_ignores_ranges_is_read_from_the_start_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after, hub.ignores_ranges = [70_000], True
    seen: list[int] = []
    folder = pull(MODEL, progress=lambda done, total: seen.append(done), hub=access(hub, tmp_path, retries=1))
    assert (folder / WEIGHTS).read_bytes() == model_files()[WEIGHTS]
    assert seen[-1] == max(seen)


def test_damaged_download_is_thrown_away_and_fetched_anew(hub: FakeHub, tmp_path: Path) -> None:
    hub.damages_downloads = True
    with pytest.raises(DownloadFailed, match="arrived damaged"):
        pull(MODEL, hub=access(hub, tmp_path))
    hub.damages_downloads = False
    folder = pull(MODEL, hub=access(hub, tmp_path))
    assert (folder / WEIGHTS).read_bytes() == model_files()[WEIGHTS]


def test_pull_of_what_is_here_transfers_no_file(hub: FakeHub, tmp_path: Path) -> None:
    pull(MODEL, hub=access(hub, tmp_path))
    hub.requests.clear()
    pull(MODEL, hub=access(hub, tmp_path))
    assert not [one for one in hub.requests if one.method == "GET" and "/resolve/" in one.path]


def test_weights_cut_off_under_their_final_name_are_completed_by_pull(hub: FakeHub, tmp_path: Path) -> None:
    folder = pull(MODEL, hub=access(hub, tmp_path))
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ModelIncomplete, match="not whole on this disk"):
        resolve_model(MODEL, hub=access(hub, tmp_path))
    hub.requests.clear()
    pull(MODEL, hub=access(hub, tmp_path))
    assert (folder / WEIGHTS).read_bytes() == model_files()[WEIGHTS]
    assert hub.downloads_of(WEIGHTS)[0].byte_range == "bytes=1000-"


def test_repository_of_pickles_is_refused_before_anything_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["someone/Pickled"] = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"}
    with pytest.raises(ModelIncomplete, match="pickles are never opened"):
        pull("someone/Pickled", hub=access(hub, tmp_path))
    assert all("/resolve/" not in request.path for request in hub.requests)


def test_token_goes_to_the_hub_and_to_no_other_host(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    pull(MODEL, hub=access(hub, tmp_path))
    tokens = {"/large/" in one.path: set[str | None]() for one in hub.requests}
    for one in hub.requests:
        tokens["/large/" in one.path].add(one.authorization)
    assert tokens == {False: {"Bearer hf_abc"}, True: {None}}


# ---- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, ModelNotFound, "private"),
        (404, ModelNotFound, "knows no model"),
        (403, ModelNotFound, "accept its terms"),
        (500, DownloadFailed, "answered 500"),
    ],
)
def test_refusal_is_one_line_that_says_what_to_do(
    hub: FakeHub, tmp_path: Path, status: int, error: type[Exception], words: str
) -> None:
    hub.refused[MODEL] = status
    with pytest.raises(error, match=words) as caught:
        pull(MODEL, hub=access(hub, tmp_path))
    assert "\n" not in str(caught.value)


def test_unknown_id_names_the_published_one_that_is_near(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"did you mean mlx-community/Qwen3-ASR-0\.6B-8bit"):
        pull("mlx-comunity/Qwen3-ASR-0.6B-8bit", hub=access(hub, tmp_path))


def test_hub_that_hangs_up_is_one_clear_line(hub: FakeHub, tmp_path: Path) -> None:
    hub.is_down = True
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1.*cannot be reached.*check the network"):
        pull(MODEL, hub=access(hub, tmp_path))


def test_full_disk_is_seen_before_the_download(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DownloadFailed, match="make room"):
        pull(MODEL, hub=access(hub, tmp_path))
    assert all(one.method == "HEAD" for one in hub.requests if "/resolve/" in one.path)


# ---- from the cache ------------------------------------------------------------------------------------------


def test_model_in_the_cache_is_used_without_a_single_request(hub: FakeHub, tmp_path: Path) -> None:
    pull(MODEL, hub=access(hub, tmp_path))
    hub.requests.clear()
    resolved = resolve_model(MODEL, download=True, hub=access(hub, tmp_path))
    assert hub.requests == []
    assert (resolved.model_id, resolved.revision, resolved.is_demo) == (MODEL, COMMIT, False)
    assert (resolved.folder / "config.json").is_file()


def test_missing_model_is_fetched_when_that_is_allowed(hub: FakeHub, tmp_path: Path) -> None:
    resolved = resolve_model(MODEL, download=True, hub=access(hub, tmp_path))
    assert (resolved.folder / WEIGHTS).is_file()


def test_missing_model_names_both_ways_out(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=rf"`scribewire pull {MODEL}`.*`--model demo`"):
        resolve_model(MODEL, hub=access(hub, tmp_path))
    assert hub.requests == []


def test_missing_model_and_unreachable_hub_name_both_ways_out(hub: FakeHub, tmp_path: Path) -> None:
    hub.is_down = True
    with pytest.raises(
        ModelNotFound, match=r"cannot be fetched.*`scribewire pull .*`--model demo`"
    ) as caught:
        resolve_model(MODEL, download=True, hub=access(hub, tmp_path))
    assert "\n" not in str(caught.value)


def test_offline_never_asks_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="may not be asked"):
        resolve_model(MODEL, download=True, offline=True, hub=access(hub, tmp_path))
    assert hub.requests == []


def test_half_downloaded_model_is_completed_by_the_next_start(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [70_000]
    with pytest.raises(ModelNotFound, match="goes on from there"):
        resolve_model(MODEL, download=True, hub=access(hub, tmp_path))
    resolved = resolve_model(MODEL, download=True, hub=access(hub, tmp_path))
    assert (resolved.folder / WEIGHTS).read_bytes() == model_files()[WEIGHTS]


def test_hub_offline_setting_is_respected_by_pull_and_by_start(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # huggingface_hub reads the variable once, when it is imported; this is the value it keeps.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE is set"):
        pull(MODEL, hub=access(hub, tmp_path))
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE"):
        resolve_model(MODEL, download=True, hub=access(hub, tmp_path))
    assert hub.requests == []


# ---- folders -------------------------------------------------------------------------------------------------


def test_whole_folder_is_taken_under_its_own_name(tmp_path: Path) -> None:
    resolved = resolve_model(str(write_model(tmp_path / "my-asr")))
    assert (resolved.model_id, resolved.revision, resolved.is_demo) == ("my-asr", None, False)


def test_name_that_is_nothing_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ModelNotFound, match=r"no folder.*Did you mean mlx-community/Qwen3-ASR-1\.7B-4bit"):
        resolve_model("qwen3-asr-1.7b-4bit")


def test_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no folder"):
        resolve_model(str(tmp_path / "nowhere"))


def test_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match="is a file"):
        resolve_model(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    "name", ["config.json", "vocab.json", "merges.txt", "tokenizer_config.json", WEIGHTS]
)
def test_folder_that_lacks_a_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "pytorch_model.bin").unlink()
    (folder / name).unlink()
    with pytest.raises(ModelIncomplete, match=rf"({name}|no weights).*fetch the model again"):
        check_model_folder(folder)


def test_tokenizer_json_alone_is_a_tokenizer(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "vocab.json").rename(folder / "tokenizer.json")
    check_model_folder(folder)


def test_pickles_alone_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelIncomplete, match="never opened"):
        check_model_folder(folder)


@pytest.mark.parametrize("left_bytes", [0, 7, 40, 100_000])
def test_cut_off_weights_are_seen_wherever_the_cut_is(tmp_path: Path, left_bytes: int) -> None:
    folder = write_model(tmp_path / "m")
    (folder / WEIGHTS).write_bytes(model_files()[WEIGHTS][:left_bytes])
    with pytest.raises(ModelIncomplete, match="cut off"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "content",
    [b"<html>not found</html>" * 9, b"\x10" + b"\0" * 7 + b"[not json at all", b"\2" + b"\0" * 7 + b"[]"],
)
def test_weights_that_are_something_else_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_model(tmp_path / "m")
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelIncomplete, match="not a safetensors file"):
        check_model_folder(folder)


@pytest.mark.parametrize("with_index", [True, False])
def test_missing_shard_is_named(tmp_path: Path, with_index: bool) -> None:
    folder = write_model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    (folder / shards[0]).write_bytes(safetensors_bytes(b"\1\2\3\4"))
    if with_index:
        index = {"weight_map": {"a": shards[0], "b": shards[1]}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelIncomplete, match=shards[1]):
        check_model_folder(folder)
    (folder / shards[1]).write_bytes(safetensors_bytes(b"\1\2\3\4"))
    check_model_folder(folder)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_damaged_config_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelIncomplete, match=r"config\.json"):
        check_model_folder(folder)


def test_cache_link_to_nowhere_counts_as_missing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "blobs" / etag_of(WEIGHTS, b""))
    with pytest.raises(ModelIncomplete, match=WEIGHTS):
        check_model_folder(folder)
