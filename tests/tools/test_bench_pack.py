"""Everything packed for a GPU machine arrives there whole; no package index is used."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.waiting import PATIENCE_SECONDS
from tools.bench import pack_for_gpu

LIMIT = 40_000


def write_wheel(folder: Path, name: str, size: int) -> dict[str, bytes]:
    """A wheel of one package with a module and `size` bytes that do not compress; returns what is in it."""
    content = {
        f"{name}/__init__.py": b"",
        f"{name}/library.bin": np.random.default_rng(size).bytes(size),
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, data in content.items():
            wheel.writestr(path, data)
    return content


def test_parts_stay_under_the_limit_and_install_to_what_was_packed(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    content: dict[str, bytes] = {}
    for name, size in (("large", 95_000), ("small", 300), ("middle", 30_000)):
        content |= write_wheel(wheels, name, size)
    parts = pack_for_gpu.lay_in_parts(sorted(wheels.glob("*.whl")), tmp_path / "out", LIMIT)
    together = tmp_path / "together"
    together.mkdir()
    assert len(parts) > 3
    for part in parts:
        assert sum(file.stat().st_size for file in part.iterdir()) <= LIMIT
        for file in part.iterdir():
            assert not (together / file.name).exists()
            file.rename(together / file.name)
    site = tmp_path / "site"
    subprocess.run(
        ["sh", str(together / "install.sh"), str(site)],
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    found = {
        path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()
    }
    assert found == content


def test_install_without_a_folder_says_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "install.sh").write_text(pack_for_gpu.INSTALL, encoding="utf-8")
    done = subprocess.run(
        ["sh", str(tmp_path / "install.sh")],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode != 0
    assert "name a folder" in done.stderr


def test_what_the_project_needs_is_found_without_the_processors_own_mlx() -> None:
    found = pack_for_gpu.needed("scribewire", "3.12")
    assert {"mlx", "numpy", "fastapi", "uvicorn", "pydantic", "starlette", "tokenizers", "av"} <= set(found)
    assert not {"mlx-cpu", "mlx-metal", "pytest", "colorama"} & set(found)


def test_folder_with_something_in_it_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit, match="is there already"):
        pack_for_gpu.main(["--out", str(tmp_path)])


def test_empty_folder_is_packed_into_but_none_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(pack_for_gpu, "download", lambda requirements, python, folder: None)
    with pytest.raises(SystemExit, match="no wheel to pack"):
        pack_for_gpu.main(["--out", str(tmp_path / "out")])
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setattr(
        pack_for_gpu, "download", lambda requirements, python, folder: write_wheel(folder, "one", 10)
    )
    assert pack_for_gpu.main(["--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "part-1").iterdir()) == [
        "install.sh",
        "one-1.0-py3-none-any.whl",
    ]
