"""Packs what the benchmarks need for a GPU machine that reaches no package index.

Downloads wheels here: the project's dependencies at the versions installed here, MLX's CUDA build, and the peers with
what they need. They are laid in numbered folders of at most --part-mb each, so that a connection with a limit carries
them one by one; a wheel larger than that is cut. On the other machine, put all files into one folder and run
`sh install.sh SITE`: it joins what was cut and unpacks every wheel into SITE, for PYTHONPATH. Nothing else is touched.
The CUDA libraries themselves (cuBLAS, cuDNN, NCCL) and what --leave-out names must be there already.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PEERS = ("mlx-qwen3-asr==0.4.4", "mlx-audio==0.6.2")
PEERS_NEED = (
    *(
        "cffi",
        "jinja2",
        "markupsafe",
        "miniaudio",
        "pycparser",
        "regex",
        "rich",
        "safetensors",
        "sentencepiece",
    ),
    *("sounddevice", "typer", "shellingham", "markdown-it-py", "mdurl", "pygments", "scipy", "transformers"),
    "webrtcvad-wheels",
)
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 26, 24, 17)),
    *("manylinux2014_x86_64", "manylinux1_x86_64"),
)
INSTALL = """\
#!/bin/sh
# Unpacks every wheel of this folder into the folder named: sh install.sh SITE
set -eu
site=${1:?name a folder: sh install.sh SITE}
cd "$(dirname "$0")"
mkdir -p "$site"
for first in ./*.whl.000; do
    if [ -e "$first" ]; then
        wheel=${first%.000}
        cat "$wheel".[0-9][0-9][0-9] >"$wheel"
        rm "$wheel".[0-9][0-9][0-9]
    fi
done
for wheel in ./*.whl; do
    python3 -m zipfile -e "$wheel" "$site"
done
echo "export PYTHONPATH=$site"
"""


def needed(distribution: str, python: str) -> dict[str, str]:
    """Names and installed versions of all that `distribution` needs on Linux under `python`, MLX's CPU build apart."""
    found: dict[str, str] = {}
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }

    def walk(name: str, extras: Iterable[str]) -> None:
        for line in requires(name) or []:
            requirement = Requirement(line)
            wanted = [environment | {"extra": extra} for extra in ("", *extras)]
            if requirement.marker and not any(requirement.marker.evaluate(one) for one in wanted):
                continue
            key = canonicalize_name(requirement.name)
            if key in found or key == "mlx-cpu":
                continue
            try:
                found[key] = version(key)
            except PackageNotFoundError:
                continue  # another platform's
            walk(key, requirement.extras)

    walk(distribution, ())
    return found


def download(requirements: Sequence[str], python: str, folder: Path) -> None:
    """Wheels of exactly `requirements` for Linux x86-64 under `python`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, "--dest", str(folder), *requirements], check=True)


def pieces(wheel: Path, limit_bytes: int) -> list[tuple[str, bytes]]:
    """The wheel, or what it is cut into, under the names that install.sh expects."""
    content = wheel.read_bytes()
    if len(content) <= limit_bytes:
        return [(wheel.name, content)]
    starts = range(0, len(content), limit_bytes)
    return [(f"{wheel.name}.{i:03d}", content[start : start + limit_bytes]) for i, start in enumerate(starts)]


def lay_in_parts(wheels: Sequence[Path], out: Path, limit_bytes: int) -> list[Path]:
    """Folders `part-1`, `part-2` ... of at most `limit_bytes` each, largest files first; returns them.

    Ends with words where there is no wheel: a part that holds nothing to install is noticed too late.
    """
    if not wheels:
        sys.exit("no wheel to pack: the folder of downloads is empty")
    files = [piece for wheel in wheels for piece in pieces(wheel, limit_bytes)]
    files.append(("install.sh", INSTALL.encode()))
    files.sort(key=lambda file: -len(file[1]))
    sizes: list[int] = []
    for name, content in files:
        place = next((i for i, size in enumerate(sizes) if size + len(content) <= limit_bytes), len(sizes))
        if place == len(sizes):
            sizes.append(0)
        sizes[place] += len(content)
        folder = out / f"part-{place + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return [out / f"part-{number + 1}" for number in range(len(sizes))]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.pack_for_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts, a new or an empty one")
    parser.add_argument("--python", default="3.12", help="Python on the other machine (default 3.12)")
    parser.add_argument("--part-mb", type=float, default=60.0, help="largest part in MB (default 60)")
    parser.add_argument("--without-peers", action="store_true", help="the project alone")
    parser.add_argument(
        "--leave-out", nargs="*", default=[], metavar="NAME", help="packages that are there already"
    )
    options = parser.parse_args(arguments)
    if options.out.exists() and not (options.out.is_dir() and not any(options.out.iterdir())):
        sys.exit(f"{options.out} is there already and not empty: remove it or name another --out")
    own = needed("scribewire", options.python)
    wanted = {name: f"{name}=={number}" for name, number in own.items()}
    wanted["mlx-cuda-13"] = f"mlx-cuda-13=={own['mlx']}"
    wanted |= {"psutil": f"psutil=={version('psutil')}"}
    if not options.without_peers:
        wanted |= {name: name for name in PEERS_NEED if name not in wanted}
        wanted |= {peer.partition("==")[0]: peer for peer in PEERS}
    for name in options.leave_out:
        wanted.pop(canonicalize_name(name), None)
    with tempfile.TemporaryDirectory() as scratch:
        download(list(wanted.values()), options.python, Path(scratch))
        wheels = sorted(Path(scratch).glob("*.whl"))
        try:
            parts = lay_in_parts(wheels, options.out, round(options.part_mb * 1_000_000))
        except OSError:
            shutil.rmtree(options.out, ignore_errors=True)
            raise
    for part in parts:
        files = list(part.iterdir())
        print(f"{part}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
    print("on the other machine: all files in one folder, then  sh install.sh SITE")
    return 0


if __name__ == "__main__":
    sys.exit(main())
