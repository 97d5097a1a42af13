"""Build the wheel from this tree, see that it holds what it should and nothing else, and let it transcribe.

Run by `make wheel` and .ci/run inside the project's .venv; asks no network. Refuses a wheel without the demo model, its
aligner, its recordings or its card, one whose demo model or aligner is over 12 MB, and one that carries tests or
development files.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = "scribewire"
DEMO_FOLDER = "scribewire/engine/demo/"
DEMO_MODEL_FOLDERS = {"demo model": f"{DEMO_FOLDER}model/", "demo aligner": f"{DEMO_FOLDER}aligner/"}
RECORDINGS_FOLDER = f"{DEMO_FOLDER}recordings/"
MODEL_CARD = f"{DEMO_FOLDER}MODEL_CARD.md"
DEMO_MODEL_LIMIT_BYTES = 12_000_000
DEMO_MODEL_NEEDS = ("config.json", ".safetensors")
RECORDING_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".webm")


class WheelRefused(Exception):
    """The wheel must not be published; the message lists every reason."""


def main() -> int:
    """Build, check and try the wheel; exit 1 with the reasons where it is refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="keep the wheel in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scribewire-wheel-") as folder:
        try:
            wheel = build_wheel((options.out or Path(folder) / "dist").resolve())
            sizes = wheel_sizes(wheel)
            refuse_wrong_contents(sizes, tracked_package_files())
            text = transcribe_with(wheel, Path(folder) / "installed", sizes)
        except (WheelRefused, subprocess.CalledProcessError) as error:
            print(f"wheel refused: {error}", file=sys.stderr)
            return 1
        models = ", ".join(
            f"{name} {folder_bytes(sizes, folder):,} bytes" for name, folder in DEMO_MODEL_FOLDERS.items()
        )
        print(
            f"{wheel.name}: {len(sizes)} files, {wheel.stat().st_size:,} bytes, {models}; transcribed: {text}"
        )
    return 0


def build_wheel(out: Path) -> Path:
    """Build with the locked hatchling of this environment and return the wheel's path."""
    before = set(out.glob("*.whl"))
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, check=True, cwd=PROJECT, stdout=subprocess.DEVNULL)
    wheels = set(out.glob("*.whl"))
    return max(wheels - before or wheels, key=lambda path: path.stat().st_mtime)


def wheel_sizes(wheel: Path) -> dict[str, int]:
    """Every file in the wheel with its uncompressed size in bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.file_size for one in archive.infolist() if not one.is_dir()}


def tracked_package_files() -> set[str]:
    """The package's files in this tree by their places in the wheel, caches left out."""
    found = set()
    for folder, _, names in os.walk(PROJECT / PACKAGE, followlinks=True):
        if "__pycache__" not in folder:
            inside = Path(folder).relative_to(PROJECT)
            found |= {(inside / name).as_posix() for name in names if name != ".DS_Store"}
    return found


def folder_bytes(sizes: dict[str, int], folder: str) -> int:
    """Uncompressed size of a folder in the wheel."""
    return sum(size for name, size in sizes.items() if name.startswith(folder))


def refuse_wrong_contents(sizes: dict[str, int], expected: Iterable[str]) -> None:
    """Raise WheelRefused, naming every missing, unwanted or oversized file."""
    names = set(sizes)
    reasons = [f"lacks {name}" for name in sorted(set(expected) - names)]
    reasons += [f"lacks {MODEL_CARD}"] * (MODEL_CARD not in names)
    reasons += [
        f"lacks {folder}*{needed}"
        for folder in DEMO_MODEL_FOLDERS.values()
        for needed in DEMO_MODEL_NEEDS
        if not any(name.startswith(folder) and name.endswith(needed) for name in names)
    ]
    if not any(name.startswith(RECORDINGS_FOLDER) and name.endswith(RECORDING_SUFFIXES) for name in names):
        reasons.append(f"lacks a recording in {RECORDINGS_FOLDER}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        reasons.append("lacks its license")
    for name in sorted(names):
        top = name.split("/")[0]
        if top != PACKAGE and not top.endswith(".dist-info"):
            reasons.append(f"holds {name}, which is no part of the product")
        elif "__pycache__" in name or "/tests/" in name:
            reasons.append(f"holds {name}, which nobody needs")
    for name, folder in DEMO_MODEL_FOLDERS.items():
        if folder_bytes(sizes, folder) > DEMO_MODEL_LIMIT_BYTES:
            reasons.append(f"holds a {name} of {folder_bytes(sizes, folder):,} bytes; the limit is 12 MB")
    if reasons:
        raise WheelRefused("\n  ".join(["", *reasons]))


def transcribe_with(wheel: Path, target: Path, sizes: dict[str, int]) -> str:
    """Install the wheel by itself, away from this tree, and return what its demo model hears in a recording."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    recording = min(name for name in sizes if name.startswith(RECORDINGS_FOLDER) and name.endswith(".wav"))
    program = (
        "import scribewire, sys\n"
        "from scribewire.server.cli import main\n"
        "assert scribewire.__file__.startswith(sys.argv[1])\n"
        "sys.argv[:] = ['scribewire', 'transcribe', '--model', 'demo', sys.argv[2]]\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(target), str(target / recording)],
        cwd=target,
        env={**os.environ, "PYTHONPATH": str(target), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout.strip()
    if done.returncode != 0 or not text:
        raise WheelRefused(f"installed by itself it transcribes nothing from {recording}:\n{done.stderr}")
    return text


if __name__ == "__main__":
    sys.exit(main())
