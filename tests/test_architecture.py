"""The import rules of the house hold, and every rule is able to fail.

The rules themselves are in tests/import_rules.py and tests/waiting_rules.py. Each is first run over this repository and
then over a small bad tree of its own, so that a rule which can no longer find anything is noticed.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import import_rules, waiting_rules
from tests.fakes.waiting import PATIENCE_SECONDS
from tests.import_rules import Tree
from tests.waiting_rules import WAITING_RULES

PROJECT = Path(__file__).resolve().parent.parent
Rule = Callable[[Tree], list[str]]

ALL_RULES = (*import_rules.ALL_RULES, *WAITING_RULES)

DOC = '"""A module."""\n'

# Rule, a file that breaks it, its text, and what the violation must say.
BAD_FILES: list[tuple[Rule, str, str, str]] = [
    (
        import_rules.engine_parts_import_downward,
        "engine/audio/mel.py",
        "import server.app",
        "imports server.app",
    ),
    (
        import_rules.engine_parts_import_downward,
        "engine/model/asr.py",
        "from engine.text import prompt",
        "engine.text",
    ),
    (
        import_rules.engine_parts_import_downward,
        "engine/model/asr.py",
        "import engine.protocol.errors",
        "errors",
    ),
    (
        import_rules.engine_parts_import_downward,
        "engine/text/prompt.py",
        "from ..audio import mel",
        "engine.audio",
    ),
    (
        import_rules.engine_parts_import_downward,
        "engine/protocol/errors.py",
        "import engine.subtitles",
        "subtitles",
    ),
    (
        import_rules.engine_parts_import_downward,
        "engine/batching/step.py",
        "import engine.transcriber",
        "transcriber",
    ),
    (
        import_rules.tools_stay_outside_the_product,
        "engine/worker.py",
        "import tools.demo_model.train",
        "tools.demo_model",
    ),
    (import_rules.engine_parts_import_downward, "engine/unheard_of.py", "import json", "no place"),
    (import_rules.parts_import_only_their_libraries, "engine/protocol/errors.py", "import numpy", "numpy"),
    (
        import_rules.parts_import_only_their_libraries,
        "engine/model/asr.py",
        "import tokenizers",
        "tokenizers",
    ),
    (
        import_rules.parts_import_only_their_libraries,
        "engine/batching/scheduler.py",
        "import mlx.core",
        "mlx.core",
    ),
    (import_rules.parts_import_only_their_libraries, "engine/__init__.py", "import mlx.core", "mlx.core"),
    (import_rules.parts_import_only_their_libraries, "server/app.py", "import mlx.core as mx", "mlx.core"),
    (import_rules.parts_import_only_their_libraries, "server/uploads.py", "def f():\n    import av", "av"),
    (import_rules.server_knows_only_the_protocol, "server/app.py", "import engine", "import engine"),
    (
        import_rules.server_knows_only_the_protocol,
        "server/app.py",
        "from engine import Transcriber",
        "import engine",
    ),
    (
        import_rules.server_knows_only_the_protocol,
        "server/x.py",
        "from engine.worker import main",
        "engine.worker",
    ),
    (
        import_rules.server_knows_only_the_protocol,
        "server/auth.py",
        "from server.app import create_app",
        "above it",
    ),
    (
        import_rules.server_knows_only_the_protocol,
        "server/jobs/job.py",
        "import server.routes.ops",
        "above it",
    ),
    (import_rules.tools_stay_outside_the_product, "server/app.py", "import tests.fakes", "tests.fakes"),
    (import_rules.tools_stay_outside_the_product, "engine/worker.py", "from tools import bench", "tools"),
    (import_rules.tools_stay_outside_the_product, "tests/unit/test_x.py", "import tools.bench", "no test of"),
    (import_rules.tools_stay_outside_the_product, "deploy/x.py", "import tools.bench", "no test of"),
    (
        import_rules.imports_stand_at_the_top,
        "server/auth.py",
        "def f():\n    import json",
        "inside a function",
    ),
    (
        import_rules.imports_stand_at_the_top,
        "engine/worker.py",
        "class C:\n def f(s):\n  import json",
        "inside a",
    ),
    (
        import_rules.imports_stand_at_the_top,
        "engine/worker.py",
        "import importlib\nimportlib.import_module('x')",
        "by name",
    ),
    (import_rules.imports_stand_at_the_top, "engine/worker.py", "x = __import__('y')", "by name"),
    (
        import_rules.environment_is_read_in_one_place,
        "engine/worker.py",
        "import os\nx = os.environ['A']",
        "environment",
    ),
    (
        import_rules.environment_is_read_in_one_place,
        "server/app.py",
        "import os\nx = os.getenv('A')",
        "environment",
    ),
    (import_rules.environment_is_read_in_one_place, "server/app.py", "from os import environ", "environment"),
    (import_rules.files_are_named_for_their_subject, "engine/utils.py", "", "no subject"),
    (import_rules.files_are_named_for_their_subject, "tests/helpers/fakes.py", "", "no subject"),
    (import_rules.files_stay_short, "server/app.py", "x = 1\n" * 450, "lines"),
    (
        import_rules.prose_names_what_exists,
        "server/app.py",
        '"""As engine.text.prompt has it, and engine.text.words.split."""',
        "engine.text.words.split",
    ),
    (import_rules.prose_names_what_exists, "server/app.py", "x = 1  # see engine/text/words.py", "words.py"),
    (import_rules.silenced_checks_give_a_reason, "server/app.py", "x = 1  # noqa: E501", "without a reason"),
    (
        import_rules.silenced_checks_give_a_reason,
        "server/app.py",
        "x = 1  # type: ignore  # because",
        "without",
    ),
    (waiting_rules.tests_wait_for_conditions, "tests/unit/test_x.py", "import time\ntime.sleep(1)", "a time"),
    (
        waiting_rules.tests_wait_for_conditions,
        "tests/http/test_x.py",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    await asyncio.sleep(0.1)",
        "a time",
    ),
    (
        waiting_rules.tests_wait_with_an_end,
        "tests/unit/test_x.py",
        "def f(a):\n    a.wait(60)\n    a.wait()",
        "for ever",
    ),
    (
        waiting_rules.tests_wait_with_an_end,
        "tests/unit/test_x.py",
        "import subprocess\nsubprocess.run(['x'], timeout=1)\nsubprocess.run(['x'])",
        "for ever",
    ),
    (
        waiting_rules.tests_wait_with_an_end,
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
    assert {"engine", "engine.protocol.errors", "tests.import_rules"} <= repository.modules


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
        "engine/text/a.py": DOC + "from engine.text import b",
        "engine/text/b.py": DOC + "from engine.text.c import x",
        "engine/text/c.py": DOC + "import engine.text.a\nx = 1",
    }
    violations = import_rules.there_are_no_import_cycles(tree_of(tmp_path, files))
    assert violations == ["import cycle: engine.text.a -> engine.text.b -> engine.text.c -> engine.text.a"]


def test_import_for_type_checkers_alone_closes_no_cycle(tmp_path: Path) -> None:
    files = {
        "engine/text/a.py": DOC + "from engine.text import b",
        "engine/text/b.py": DOC
        + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import engine.text.a",
    }
    assert import_rules.there_are_no_import_cycles(tree_of(tmp_path, files)) == []


def test_import_hidden_from_type_checkers_does_close_a_cycle(tmp_path: Path) -> None:
    files = {
        "engine/text/a.py": DOC + "from engine.text import b",
        "engine/text/b.py": DOC
        + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    x = 1\nelse:\n    import engine.text.a",
    }
    assert len(import_rules.there_are_no_import_cycles(tree_of(tmp_path, files))) == 1


def test_module_without_a_docstring_is_found(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {"engine/text/prompt.py": "x = 1", "tests/unit/test_x.py": DOC})
    assert import_rules.modules_say_what_they_are_for(tree) == ["engine/text/prompt.py has no docstring"]


def test_orderly_tree_breaks_no_rule(tmp_path: Path) -> None:
    files = {
        "engine/__init__.py": DOC + "import importlib\nfrom engine.protocol import errors",
        "engine/protocol/__init__.py": DOC,
        "engine/protocol/errors.py": DOC + "import json",
        "engine/model/asr.py": DOC + "import mlx.core as mx\nfrom engine.model import cache",
        "engine/model/cache.py": DOC + "import numpy",
        "engine/transcriber.py": DOC + "from engine.model.asr import x\nfrom engine.protocol import errors",
        "server/app.py": DOC
        + "import fastapi\nfrom server.routes import ops\nfrom engine.protocol import errors",
        "server/routes/ops.py": DOC + "from server import auth\nx = 1  # noqa: E501 - a table row",
        "server/auth.py": DOC + "import hashlib",
        "tools/bench/x.py": DOC + "import tools.bench.y\nfrom server import app",
        "tests/tools/test_x.py": DOC + "import tools.bench.x",
        "server/settings.py": DOC + "import os\nx = os.environ",
    }
    tree = tree_of(tmp_path, files)
    assert [violation for rule in ALL_RULES for violation in rule(tree)] == []


def test_every_rule_is_seen_to_fail() -> None:
    seen = {rule for rule, *_ in BAD_FILES}
    seen |= {import_rules.there_are_no_import_cycles, import_rules.modules_say_what_they_are_for}
    assert seen == set(ALL_RULES)


def test_tables_name_parts_that_exist(repository: Tree) -> None:
    allowed = set().union(*import_rules.ENGINE_MAY_IMPORT.values(), import_rules.SERVER_MAY_IMPORT_OF_ENGINE)
    named = {
        *import_rules.ENGINE_MAY_IMPORT,
        *import_rules.FOREIGN_ALLOWED,
        *import_rules.SERVER_ORDER,
        *(f"engine.{part}" for part in allowed - {"*"}),
    }
    assert named <= repository.modules, sorted(named - repository.modules)


def test_exceptions_name_files_that_exist(repository: Tree) -> None:
    existing = {source.relative for source in repository.sources}
    assert {
        *import_rules.LATE_IMPORTS,
        *import_rules.ENVIRONMENT_READERS,
        *waiting_rules.OWN_WAITS,
    } <= existing


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "must_not_load"),
    [
        ("engine", ("mlx", "av", "tokenizers", "numpy", "fastapi")),
        ("engine.protocol", ("mlx", "av", "tokenizers", "numpy", "fastapi")),
        ("engine.protocol.launch", ("mlx", "av", "tokenizers", "numpy", "fastapi")),
        ("server.app", ("mlx", "av", "tokenizers", "engine.transcriber", "engine.worker", "engine.cli")),
        ("server.cli", ("mlx", "av", "tokenizers", "engine.transcriber", "engine.worker", "engine.cli")),
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
