"""Resolve the dependencies in pyproject.toml into constraints.txt: versions and hashes for every machine.

Run by `make lock`. A resolver in a throw-away folder does the work; this script refuses a result that names
an index address, that has a package without a hash, or that some supported machine could not install from
wheels alone.
Pins that still fit are kept; --upgrade takes the newest of everything.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Environment, Marker, default_environment

PROJECT = Path(__file__).resolve().parents[2]
CONSTRAINTS = PROJECT / "constraints.txt"
RESOLVER = "uv==0.13.8"
PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")

HEADER = """\
# Exact versions and hashes of everything that `make setup` installs: to run, to test and to build.
# For macOS 14 or newer on arm64 and Linux (glibc 2.35 or newer) on x86_64 and aarch64, Python 3.11 to 3.14.
# Made by `make lock`; do not edit by hand.
"""


@dataclass(frozen=True)
class Machine:
    """One supported kind of machine, in the resolver's words and in those of environment markers."""

    resolver_platform: str
    sys_platform: str
    platform_machine: str
    oldest_macos: str = ""


MACHINES = (
    Machine("aarch64-apple-darwin", "darwin", "arm64", oldest_macos="14.0"),
    Machine("x86_64-manylinux_2_35", "linux", "x86_64"),
    Machine("aarch64-manylinux_2_35", "linux", "aarch64"),
)


class LockRefused(Exception):
    """The resolved file is not one that may be committed."""


def main() -> int:
    """Write constraints.txt; exit 1 with the reason where the result is refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest version of every package")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="scribewire-lock-") as folder:
            resolver = install_resolver(Path(folder))
            resolved = resolve(resolver, Path(folder), upgrade=options.upgrade)
            text = HEADER + shorten_markers(resolved)
            refuse_leaks(text)
            check_every_machine(resolver, Path(folder), text)
    except (LockRefused, subprocess.CalledProcessError) as error:
        print(f"constraints.txt was left as it is: {error}", file=sys.stderr)
        return 1
    CONSTRAINTS.write_text(text, encoding="utf-8")
    print(f"constraints.txt: {len(packages(text))} packages")
    return 0


def install_resolver(folder: Path) -> Path:
    """Put the resolver into a virtual environment of its own, so that the project never depends on it."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", RESOLVER], check=True)
    return folder / "venv" / "bin" / "uv"


def resolve(resolver: Path, folder: Path, *, upgrade: bool) -> str:
    """One resolution for all machines and Python versions: the newest versions that all can install."""
    output = folder / "resolved.txt"
    if CONSTRAINTS.exists():
        shutil.copy(CONSTRAINTS, output)
    command = [
        str(resolver), "pip", "compile", "pyproject.toml", "--extra", "dev", "--universal", "--quiet",
        "--python-version", PYTHON_VERSIONS[0], "--fork-strategy", "fewest", "--generate-hashes",
        "--no-annotate", "--no-header", "--output-file", str(output),
    ]  # fmt: skip
    subprocess.run(command + ["--upgrade"] * upgrade, check=True, cwd=PROJECT)
    return output.read_text(encoding="utf-8")


def shorten_markers(text: str) -> str:
    """Drop markers that hold on every supported machine, and say the others in few words.

    A package without a marker fails loudly on a machine that is not supported, instead of being left out.
    """
    return re.sub(
        r"^(\S+==\S+) ; (.+?) \\$", lambda found: _pin(found[1], found[2]), text, flags=re.MULTILINE
    )


def _pin(requirement: str, marker: str) -> str:
    environments = list(supported_environments())
    wanted = [Marker(marker).evaluate(environment) for environment in environments]
    for short in ("", "sys_platform == 'darwin'", "sys_platform == 'linux'"):
        if wanted == [not short or Marker(short).evaluate(environment) for environment in environments]:
            return f"{requirement} ; {short} \\" if short else f"{requirement} \\"
    return f"{requirement} ; {marker} \\"


def supported_environments() -> Iterator[Environment]:
    """The marker environment of every supported machine and Python version."""
    for machine, version in itertools.product(MACHINES, PYTHON_VERSIONS):
        environment = default_environment()
        environment.update(
            sys_platform=machine.sys_platform,
            platform_machine=machine.platform_machine,
            platform_system={"darwin": "Darwin", "linux": "Linux"}[machine.sys_platform],
            os_name="posix",
            python_version=version,
            python_full_version=f"{version}.0",
            implementation_name="cpython",
            platform_python_implementation="CPython",
        )
        yield environment


def packages(text: str) -> dict[str, list[str]]:
    """Each pinned requirement with the hashes that follow it."""
    pinned: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith(" "):
            pinned[name].append(line.strip().removesuffix(" \\"))
        elif line and not line.startswith("#"):
            name = line.split(" ")[0]
            pinned[name] = []
    return pinned


def refuse_leaks(text: str) -> None:
    """Raise LockRefused where a line is an option, names an address, or where a package has no sha256."""
    for line in text.splitlines():
        if "://" in line or (line.startswith("-") and not line.startswith("--hash")):
            raise LockRefused(f"a line that does not belong there: {line.strip()}")
    for requirement, hashes in packages(text).items():
        if not hashes or not all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes):
            raise LockRefused(f"{requirement} has no sha256")


def check_every_machine(resolver: Path, folder: Path, text: str) -> None:
    """See that each machine and Python finds a wheel of every package under the hashes; installs nothing."""
    candidate = folder / "candidate.txt"
    candidate.write_text(text, encoding="utf-8")
    for machine, version in itertools.product(MACHINES, PYTHON_VERSIONS):
        command = [
            str(resolver), "pip", "install", "--dry-run", "--quiet", "--no-config", "--no-deps",
            "--require-hashes", "--only-binary", ":all:",
            "--python-platform", machine.resolver_platform, "--python-version", version,
            "--target", str(folder / "nowhere"), "--requirement", str(candidate),
        ]  # fmt: skip
        environment = dict(os.environ)
        if machine.oldest_macos:
            environment["MACOSX_DEPLOYMENT_TARGET"] = machine.oldest_macos
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise LockRefused(f"{machine.resolver_platform}, Python {version}:\n{done.stderr.strip()}")
        print(f"wheels for every package: {machine.resolver_platform}, Python {version}")


if __name__ == "__main__":
    sys.exit(main())
