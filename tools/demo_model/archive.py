"""Packs the synthesizers into one folder for a machine that cannot install them: programs, libraries, voice data.

glibc's own libraries are left out: they must be the other machine's (which may be newer, not older). The word lists
travel along. The result is what speech.Programs.unpacked and --archive take.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from tools.demo_model.speech import Programs, SynthesizerMissing

WORD_LIST_FOLDER = Path("/usr/share/dict")
WORD_LISTS = (
    *("american-english", "american-english-small", "spanish"),
    *("scowl/english-words.10", "scowl/english-words.20"),
)
_GLIBC = re.compile(r"^(ld-linux|libc\.|libm\.|libpthread|libdl|librt|libresolv)")


def _libraries(program: str) -> dict[str, Path]:
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    found = {name: Path(path) for name, path in re.findall(r"(\S+) => (/\S+)", listing)}
    return {name: path for name, path in found.items() if not _GLIBC.match(name)}


def _espeak_data(programs: Programs) -> Path:
    said = subprocess.run([programs.espeak, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"Data at: (\S+)", said)
    if match is None:
        raise SynthesizerMissing(f"espeak-ng does not say where its data is: {said!r}")
    return Path(match.group(1))


def build_archive(folder: Path) -> Path:
    """Fill `folder` with bin, lib, espeak-ng-data and dict, and pack it as `folder`.tar.xz; returns the archive."""
    programs = Programs.installed()
    for sub in ("bin", "lib", "dict"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for program, name in ((programs.flite, "flite"), (programs.espeak, "espeak-ng")):
        shutil.copy(program, folder / "bin" / name)
        for library, path in _libraries(program).items():
            shutil.copy(path, folder / "lib" / library)
    shutil.copytree(_espeak_data(programs), folder / "espeak-ng-data", dirs_exist_ok=True)
    for words in WORD_LISTS:
        target = folder / "dict" / words
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(WORD_LIST_FOLDER / words, target)
    archive = folder.parent / f"{folder.name}.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for part in sorted(folder.iterdir()):
            tar.add(part, arcname=part.name)
    return archive
