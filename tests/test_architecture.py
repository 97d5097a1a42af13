"""The import rules of the house hold, and every rule is able to fail.

The rules are in tests/rules. Each is first run over this repository and
then over a small bad tree of its own, so that a rule which can no longer find anything is noticed.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.waiting import PATIENCE_SECONDS
from tests.rules import files, imports, waits
from tests.rules.source_tree import Tree

PROJECT = Path(__file__).resolve().parent.parent
Rule = Callable[[Tree], list[str]]

ALL_RULES = (*imports.IMPORT_RULES, *files.FILE_RULES, *waits.WAITING_RULES)

DOC = '"""A module."""\n'

# Rule, a file that breaks it, its text, and what the violation must say.
BAD_FILES: list[tuple[Rule, str, str, str]] = [
    (
        imports.product_is_named_through_its_package,
        "tests/unit/test_x.py",
        "from engine.text import prompt",
        "imports engine.text",
    ),
    (
        imports.product_is_named_through_its_package,
        "engine/worker.py",
        "command = ['-m', 'engine.text.prompt']",
        "names engine.text.prompt",
    ),
    (
        imports.engine_parts_import_downward,
        "engine/text/words.py",
        "from scribewire import Transcriber",
        "imports scribewire",
    ),
    (
        imports.server_knows_only_the_protocol,
        "server/app.py",
        "from scribewire import Transcriber",
        "scribewire itself",
    ),
    (
        imports.engine_parts_import_downward,
        "engine/audio/mel.py",
        "import scribewire.server.app",
        "imports server.app",
    ),
    (
        imports.engine_parts_import_downward,
        "engine/model/asr.py",
        "from scribewire.engine.text import prompt",
        "engine.text",
    ),
    (
        imports.engine_parts_import_downward,
        "engine/model/asr.py",
        "import scribewire.engine.protocol.errors",
        "errors",
    ),
    (
        imports.engine_parts_import_downward,
        "engine/text/prompt.py",
        "from ..audio import mel",
        "engine.audio",
    ),
    (
        imports.engine_parts_import_downward,
        "engine/protocol/errors.py",
        "import scribewire.engine.subtitles",
        "subtitles",
    ),
    (
        imports.engine_parts_import_downward,
        "engine/batching/step.py",
        "import scribewire.engine.transcriber",
        "transcriber",
    ),
    (
        imports.engine_parts_import_downward,
        "engine/worker.py",
        "import tools.demo_model.train",
        "tools.demo_model",
    ),
    (imports.engine_parts_import_downward, "engine/unheard_of.py", "import json", "no place"),
    (imports.parts_import_only_their_libraries, "engine/protocol/errors.py", "import numpy", "numpy"),
    (
        imports.parts_import_only_their_libraries,
        "engine/model/asr.py",
        "import tokenizers",
        "tokenizers",
    ),
    (
        imports.parts_import_only_their_libraries,
        "engine/batching/scheduler.py",
        "import mlx.core",
        "mlx.core",
    ),
    (imports.parts_import_only_their_libraries, "engine/__init__.py", "import mlx.core", "mlx.core"),
    (imports.parts_import_only_their_libraries, "server/app.py", "import mlx.core as mx", "mlx.core"),
    (imports.parts_import_only_their_libraries, "server/intake/uploads.py", "def f():\n    import av", "av"),
    (imports.server_knows_only_the_protocol, "server/app.py", "import engine", "import engine"),
    (
        imports.server_knows_only_the_protocol,
        "server/app.py",
        "from scribewire.engine import Transcriber",
        "import engine",
    ),
    (
        imports.server_knows_only_the_protocol,
        "server/x.py",
        "from scribewire.engine.worker import main",
        "engine.worker",
    ),
    (
        imports.server_knows_only_the_protocol,
        "server/access/gate.py",
        "from scribewire.server.app import create_app",
        "above it",
    ),
    (
        imports.server_knows_only_the_protocol,
        "server/jobs/job.py",
        "import scribewire.server.routes.ops",
        "above it",
    ),
    (imports.server_knows_only_the_protocol, "server/app.py", "import tests.fakes.media", "tests.fakes"),
    (imports.tools_stand_apart, "tests/unit/test_x.py", "from tools.eval import noise", "tools.eval"),
    (
        imports.tools_stand_apart,
        "tools/eval/x.py",
        "from tests.unit.test_x import f",
        "tests.unit.test_x",
    ),
    (imports.tools_stand_apart, "tests/fakes/x.py", "from tests.http import test_y", "tests.http"),
    (
        imports.imports_stand_at_the_top,
        "server/access/gate.py",
        "def f():\n    import json",
        "inside a function",
    ),
    (
        imports.imports_stand_at_the_top,
        "engine/worker.py",
        "class C:\n def f(s):\n  import json",
        "inside a",
    ),
    (
        imports.imports_stand_at_the_top,
        "engine/worker.py",
        "import importlib\nimportlib.import_module('x')",
        "by name",
    ),
    (imports.imports_stand_at_the_top, "engine/worker.py", "x = __import__('y')", "by name"),
    (
        files.environment_is_read_in_one_place,
        "engine/worker.py",
        "import os\nx = os.environ['A']",
        "environment",
    ),
    (
        files.environment_is_read_in_one_place,
        "server/app.py",
        "import os\nx = os.getenv('A')",
        "environment",
    ),
    (files.environment_is_read_in_one_place, "server/app.py", "from os import environ", "environment"),
    (files.files_are_named_for_their_subject, "engine/utils.py", "", "no subject"),
    (files.files_are_named_for_their_subject, "tests/helpers/fakes.py", "", "no subject"),
    (files.files_stay_short, "server/app.py", "x = 1\n" * 450, "lines"),
    (
        files.prose_names_what_exists,
        "server/app.py",
        '"""As scribewire.engine.text.prompt has it, and scribewire.engine.text.words.split."""',
        "scribewire.engine.text.words.split",
    ),
    (files.prose_names_what_exists, "server/app.py", "x = 1  # see engine/text/words.py", "words.py"),
    (files.silenced_checks_give_a_reason, "server/app.py", "x = 1  # noqa: E501", "without a reason"),
    (
        files.silenced_checks_give_a_reason,
        "server/app.py",
        "x = 1  # type: ignore  # because",
        "without",
    ),
    (waits.tests_wait_for_conditions, "tests/unit/test_x.py", "import time\ntime.sleep(1)", "a time"),
    (
        waits.tests_wait_for_conditions,
        "tests/http/test_x.py",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    await asyncio.sleep(0.1)",
        "a time",
    ),
    (
        waits.tests_wait_with_an_end,
        "tests/unit/test_x.py",
        "def f(a):\n    a.wait(60)\n    a.wait()",
        "for ever",
    ),
    (
        waits.tests_wait_with_an_end,
        "tests/unit/test_x.py",
        "import subprocess\nsubprocess.run(['x'], timeout=1)\nsubprocess.run(['x'])",
        "for ever",
    ),
    (
        waits.tests_wait_with_an_end,
        "tests/unit/test_x.py",
        "import asyncio\nasyncio.run(x())",
        "for ever",
    ),
]


def tree_of(root: Path, files: dict[str, str]) -> Tree:
    """Write files below root and read them as a tree."""
    for relative, text in files.items():
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Tree.read(root)


@pytest.fixture(scope="module")
def repository() -> Tree:
    """This repository's sources."""
    return Tree.read(PROJECT)


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.__name__)
def test_repository_keeps(rule: Rule, repository: Tree) -> None:
    violations = rule(repository)
    assert not violations, "\n" + "\n".join(violations)


def test_repository_is_really_read(repository: Tree) -> None:
    assert {"engine", "engine.protocol.errors", "tests.rules.imports"} <= repository.modules


@pytest.mark.parametrize(
    ("rule", "relative", "text", "expected"),
    BAD_FILES,
    ids=[f"{r.__name__}-{n}" for n, (r, *_) in enumerate(BAD_FILES)],
)
def test_rule_finds_a_planted_violation(
    rule: Rule, relative: str, text: str, expected: str, tmp_path: Path
) -> None:
    files = {"engine/text/prompt.py": DOC, "engine/audio/mel.py": DOC, relative: DOC + text}
    violations = rule(tree_of(tmp_path, files))
    assert len(violations) == 1, violations
    assert violations[0].startswith(relative)
    assert expected in violations[0]


def test_cycle_is_found_through_three_modules(tmp_path: Path) -> None:
    files = {
        "engine/text/a.py": DOC + "from scribewire.engine.text import b",
        "engine/text/b.py": DOC + "from scribewire.engine.text.c import x",
        "engine/text/c.py": DOC + "import scribewire.engine.text.a\nx = 1",
    }
    violations = imports.there_are_no_import_cycles(tree_of(tmp_path, files))
    assert violations == ["import cycle: engine.text.a -> engine.text.b -> engine.text.c -> engine.text.a"]


def test_import_for_type_checkers_alone_closes_no_cycle(tmp_path: Path) -> None:
    files = {
        "engine/text/a.py": DOC + "from scribewire.engine.text import b",
        "engine/text/b.py": DOC
        + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scribewire.engine.text.a",
    }
    assert imports.there_are_no_import_cycles(tree_of(tmp_path, files)) == []


def test_import_hidden_from_type_checkers_does_close_a_cycle(tmp_path: Path) -> None:
    files = {
        "engine/text/a.py": DOC + "from scribewire.engine.text import b",
        "engine/text/b.py": DOC
        + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    x = 1\nelse:\n    import scribewire.engine.text.a",
    }
    assert len(imports.there_are_no_import_cycles(tree_of(tmp_path, files))) == 1


def test_root_with_too_many_files_is_found(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {f"server/file{number}.py": DOC for number in range(7)})
    assert files.roots_hold_few_files(tree) == ["server/ holds 7 files in its root; the limit is 6"]


def test_module_without_a_docstring_is_found(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {"engine/text/prompt.py": "x = 1", "tests/unit/test_x.py": DOC})
    assert files.modules_say_what_they_are_for(tree) == ["engine/text/prompt.py has no docstring"]


def test_orderly_tree_breaks_no_rule(tmp_path: Path) -> None:
    files = {
        "engine/__init__.py": DOC,
        "scribewire/__init__.py": DOC + "import importlib\nfrom scribewire.engine.protocol import errors",
        "engine/protocol/__init__.py": DOC,
        "engine/protocol/errors.py": DOC + "import json",
        "engine/model/asr.py": DOC + "import mlx.core as mx\nfrom scribewire.engine.model import cache",
        "engine/model/cache.py": DOC + "import numpy",
        "engine/transcriber.py": DOC
        + "from scribewire.engine.model.asr import x\nfrom scribewire.engine.protocol import errors",
        "server/app.py": DOC
        + "import fastapi\nfrom scribewire.server.routes import ops\nfrom scribewire.engine.protocol import errors",
        "server/routes/ops.py": DOC + "from scribewire.server import auth\nx = 1  # noqa: E501 - a table row",
        "server/access/gate.py": DOC + "import hashlib",
        "tools/bench/x.py": DOC + "import tools.bench.y\nfrom scribewire.server import app",
        "tests/tools/test_x.py": DOC + "import tools.bench.x",
        "server/settings/fields.py": DOC + "import os\nx = os.environ",
    }
    tree = tree_of(tmp_path, files)
    assert [violation for rule in ALL_RULES for violation in rule(tree)] == []


def test_every_rule_is_seen_to_fail() -> None:
    seen = {rule for rule, *_ in BAD_FILES}
    seen |= {
        imports.there_are_no_import_cycles,
        files.modules_say_what_they_are_for,
        files.roots_hold_few_files,
    }
    assert seen == set(ALL_RULES)


def test_tables_name_parts_that_exist(repository: Tree) -> None:
    allowed = set().union(*imports.ENGINE_MAY_IMPORT.values(), imports.SERVER_MAY_IMPORT_OF_ENGINE)
    named = {
        *imports.ENGINE_MAY_IMPORT,
        *imports.FOREIGN_ALLOWED,
        *imports.SERVER_ORDER,
        *(f"engine.{part}" for part in allowed - {"*"}),
    }
    assert named <= repository.modules, sorted(named - repository.modules)


def test_exceptions_name_files_that_exist(repository: Tree) -> None:
    existing = {source.relative for source in repository.sources}
    assert {
        *imports.LATE_IMPORTS,
        *files.ENVIRONMENT_READERS,
        *waits.OWN_WAITS,
    } <= existing


ENGINE_MODULES = (
    *("mlx", "av", "tokenizers"),
    *(f"scribewire.engine.{name}" for name in ("transcriber", "worker", "cli")),
)


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "must_not_load"),
    [
        ("scribewire", ("mlx", "av", "tokenizers", "numpy", "fastapi")),
        ("scribewire.engine.protocol", ("mlx", "av", "tokenizers", "numpy", "fastapi")),
        ("scribewire.engine.processes.launch", ("mlx", "av", "tokenizers", "numpy", "fastapi")),
        ("scribewire.server.app", ENGINE_MODULES),
        ("scribewire.server.cli", ENGINE_MODULES),
    ],
)
def test_importing_loads_nothing_of_the_engine(module: str, must_not_load: tuple[str, ...]) -> None:
    program = (
        "import importlib, sys\n"
        f"importlib.import_module({module!r})\n"
        f"print(*sorted(set({must_not_load!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
