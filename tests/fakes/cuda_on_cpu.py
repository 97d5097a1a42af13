"""A CUDA kernel's body compiled for the CPU by the system's C compiler, to be run on MLX's or numpy's memory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.waiting import PATIENCE_SECONDS, STORY_SECONDS


@cache
def what_is_missing() -> str | None:
    """The reason why kernels cannot be run here; None where they can.

    The project itself asks for no compiler, so a machine without one may leave these tests out. CI's has one.
    """
    if sys.platform == "darwin":
        return "macOS has given up the C library's contexts, which stand in for a kernel's threads"
    if shutil.which("cc") is None:
        return "a CUDA kernel's source is run by way of a C compiler, and there is none"
    probe = subprocess.run(
        ["cc", "-xc", "-fsyntax-only", "-"],
        input=b"_Float16 x;",
        capture_output=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    return "this C compiler knows no 16-bit numbers (GCC does from 12 on)" if probe.returncode else None


class CpuKernel:
    """The body in `source` as a function of arrays, which it may write."""

    def __init__(
        self,
        source: Path,
        parameters: Sequence[tuple[str, str]],
        folder: Path,
        *,
        macros: str = "",
        **constants: object,
    ) -> None:
        """parameters: type and name of each, in order. constants: `WARPS` and what else the body expects."""
        if (lacks := what_is_missing()) is not None:
            pytest.skip(lacks)
        header = folder / "macros.h"
        header.write_text(macros)
        library = folder / f"{source.stem}.so"
        defined = constants | {
            "BODY": f'"{source}"',
            "PARAMETERS": ", ".join(f"{kind} {name}" for kind, name in parameters),
            "ARGUMENTS": ", ".join(f"given[{place}]" for place in range(len(parameters))),
        }
        subprocess.run(
            ["cc", "-std=gnu11", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
            + ["-include", str(header)]
            + [f"-D{name}={value}" for name, value in defined.items()]
            + [str(Path(__file__).with_suffix(".c")), "-o", str(library), "-lm"],
            check=True,
            timeout=STORY_SECONDS,
        )
        self._run = ctypes.CDLL(str(library)).run

    def __call__(self, arrays: Sequence[np.ndarray], grid: tuple[int, int]) -> None:
        """arrays: contiguous, one for each parameter. grid: blocks."""
        assert all(one.flags.c_contiguous for one in arrays)
        self._run((ctypes.c_void_p * len(arrays))(*(one.ctypes.data for one in arrays)), *grid)
