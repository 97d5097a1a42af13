"""Parts that make and check a release: the lock, the wheel's contents, the replay of the container."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.test_packaging import pins
from tools.release import check_wheel, lock, replay

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def constraints() -> str:
    """The text of constraints.txt."""
    return (PROJECT / "constraints.txt").read_text(encoding="utf-8")


class TestLock:
    def test_every_declared_dependency_is_pinned_within_its_bounds(
        self, project: dict[str, Any], constraints: str
    ) -> None:
        declared = [
            *project["project"]["dependencies"],
            *project["project"]["optional-dependencies"]["dev"],
            *project["build-system"]["requires"],
        ]
        everything = {
            name: version
            for environment in lock.supported_environments()
            for name, version in pins(constraints, dict(environment)).items()
        }
        for requirement in map(Requirement, declared):
            assert requirement.specifier.contains(everything[canonicalize_name(requirement.name)]), (
                requirement
            )

    def test_every_package_has_hashes_and_no_line_names_an_index(self, constraints: str) -> None:
        lock.refuse_leaks(constraints)
        assert len(lock.packages(constraints)) > 30

    @pytest.mark.parametrize("leak", ["--extra-index-url x", "-f wheels", "a @ https://example.org/a.whl"])
    def test_lock_with_an_address_or_an_option_is_refused(self, leak: str) -> None:
        with pytest.raises(lock.LockRefused, match="does not belong"):
            lock.refuse_leaks(f"{leak}\n")

    def test_lock_without_a_hash_is_refused(self) -> None:
        with pytest.raises(lock.LockRefused, match="has no sha256"):
            lock.refuse_leaks("numpy==2.0.0\n")

    def test_mac_gets_metal_and_linux_gets_the_cpu_build(self, constraints: str) -> None:
        backends = {"mlx-metal", "mlx-cpu"}
        for environment in lock.supported_environments():
            chosen = backends & set(pins(constraints, dict(environment)))
            assert chosen == ({"mlx-metal"} if environment["sys_platform"] == "darwin" else {"mlx-cpu"})
            assert "mlx" in pins(constraints, dict(environment))

    def test_marker_that_holds_on_every_machine_is_dropped_and_others_are_kept(self) -> None:
        lines = [
            "a==1 ; sys_platform != 'win32'",
            "b==1 ; platform_system == 'Darwin'",
            "c==1 ; python_version < '3.12'",
        ]
        text = "".join(f"{line} \\\n" for line in lines)
        assert lock.shorten_markers(text).splitlines() == [
            "a==1 \\",
            "b==1 ; sys_platform == 'darwin' \\",
            "c==1 ; python_version < '3.12' \\",
        ]


GOOD_WHEEL = {
    "scribewire/engine/__init__.py": 1,
    "scribewire/engine/demo/MODEL_CARD.md": 1,
    "scribewire/engine/demo/model/config.json": 1,
    "scribewire/engine/demo/model/model.safetensors": 9_000_000,
    "scribewire/engine/demo/aligner/config.json": 1,
    "scribewire/engine/demo/aligner/model.safetensors": 9_000_000,
    "scribewire/engine/demo/recordings/greeting.wav": 1,
    "scribewire/server/cli.py": 1,
    "scribewire-0.1.0.dist-info/licenses/LICENSE": 1,
}


class TestWheelContents:
    def test_complete_wheel_is_accepted(self) -> None:
        check_wheel.refuse_wrong_contents(GOOD_WHEEL, {"scribewire/server/cli.py"})

    @pytest.mark.parametrize(
        "name", sorted(set(GOOD_WHEEL) - {"scribewire/engine/__init__.py", "scribewire/server/cli.py"})
    )
    def test_wheel_that_lacks_a_needed_file_is_refused(self, name: str) -> None:
        sizes = {other: size for other, size in GOOD_WHEEL.items() if other != name}
        with pytest.raises(check_wheel.WheelRefused, match="lacks"):
            check_wheel.refuse_wrong_contents(sizes, ())

    def test_wheel_that_lacks_a_source_file_of_this_tree_is_refused(self) -> None:
        with pytest.raises(check_wheel.WheelRefused, match=r"lacks scribewire/server/web/page\.html"):
            check_wheel.refuse_wrong_contents(GOOD_WHEEL, {"scribewire/server/web/page.html"})

    @pytest.mark.parametrize(
        "name", ["tests/conftest.py", "tools/release/lock.py", "scribewire/engine/__pycache__/x.pyc"]
    )
    def test_wheel_with_development_files_is_refused(self, name: str) -> None:
        with pytest.raises(check_wheel.WheelRefused, match="holds"):
            check_wheel.refuse_wrong_contents({**GOOD_WHEEL, name: 1}, ())

    @pytest.mark.parametrize("name", ["model", "aligner"])
    def test_demo_model_or_aligner_over_twelve_megabytes_is_refused(self, name: str) -> None:
        with pytest.raises(check_wheel.WheelRefused, match="the limit is 12 MB"):
            check_wheel.refuse_wrong_contents(
                {**GOOD_WHEEL, f"scribewire/engine/demo/{name}/more.safetensors": 3_000_001}, ()
            )


class TestContainer:
    def test_dockerfile_is_one_that_the_replay_understands(self) -> None:
        instructions = replay.parse_dockerfile((PROJECT / "Dockerfile.dev").read_text(encoding="utf-8"))
        commands = [one.arguments for one in instructions if one.keyword == "RUN"]
        assert commands[-2:] == ["make setup", "make test"]
        users = [number for number, one in enumerate(instructions) if one.keyword == "USER"]
        setup = instructions.index(replay.Instruction("RUN", "make setup"))
        assert users, "the image must not run as root"
        assert users[0] < setup

    def test_instruction_that_cannot_be_replayed_is_refused(self) -> None:
        with pytest.raises(replay.ReplayFailed, match="HEALTHCHECK"):
            replay.parse_dockerfile("FROM x\nHEALTHCHECK CMD true\n")

    def test_continued_lines_are_joined_and_comments_left_out(self) -> None:
        text = "# a comment\nRUN one \\\n  two\n"
        assert replay.parse_dockerfile(text) == [replay.Instruction("RUN", "one    two")]

    def test_failing_step_ends_the_replay(self, tmp_path: Path) -> None:
        with pytest.raises(replay.ReplayFailed, match="exit status 3"):
            replay.Replay(tmp_path).follow(replay.Instruction("RUN", "exit 3"))

    def test_sources_are_copied_with_their_links(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("engine/__init__.py", "package/__init__.py", ".dockerignore"):
            (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "project" / name).touch()
        (tmp_path / "project" / "package" / "engine").symlink_to("../engine")
        monkeypatch.setattr(replay, "PROJECT", tmp_path / "project")
        followed = replay.Replay(tmp_path / "image")
        followed.follow(replay.Instruction("WORKDIR", "/app"))
        followed.follow(replay.Instruction("COPY", ". ."))
        copied = tmp_path / "image" / "app" / "package" / "engine"
        assert copied.readlink() == Path("../engine")
        assert (copied / "__init__.py").is_file()

    def test_absolute_paths_of_the_image_stay_below_the_replays_root(self, tmp_path: Path) -> None:
        followed = replay.Replay(tmp_path)
        followed.follow(replay.Instruction("ENV", "SCRIBEWIRE_DATA=/data"))
        followed.follow(replay.Instruction("VOLUME", "/data"))
        assert followed.environment["SCRIBEWIRE_DATA"] == str(tmp_path / "data")
        assert (tmp_path / "data").is_dir()

    @pytest.mark.parametrize(
        ("relative", "ignored"),
        [
            (".git/config", True),
            (".venv/bin/python", True),
            ("engine/model/__pycache__/asr.pyc", True),
            ("dist/scribewire.whl", True),
            ("engine/demo/model/config.json", False),
            (".ci/run", False),
            ("Makefile", False),
        ],
    )
    def test_image_gets_the_sources_and_no_history_or_caches(self, relative: str, ignored: bool) -> None:
        patterns = replay.ignore_patterns((PROJECT / ".dockerignore").read_text(encoding="utf-8"))
        assert replay.is_ignored(relative, patterns) is ignored
