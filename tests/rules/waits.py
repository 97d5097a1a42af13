"""Rules of waiting in tests: for conditions and never for a time, and never without an end.

Rules of the same kind as those of imports, read off the syntax trees and run by the same tests.
"""

import ast
from collections.abc import Callable, Iterator

from tests.rules.source_tree import Source, Tree

# Files of tests that wait in their own way. Each entry: file, and why it may.
OWN_WAITS = {
    "tests/fakes/waiting.py": "the one place that sleeps between two checks, and gives every wait its end",
    "tests/fakes/running_server.py": "runs a server's event loop in a thread; leaving the context ends it in time",
    "tests/fakes/counting_worker.py": "stands for an engine that takes its time",
    "tests/fakes/fake_worker.py": "stands for an engine that is slow or hangs; the supervisor under test ends it",
    "tests/fakes/front_server.py": "samples a server's memory until it is stopped",
    "tests/fakes/served.py": "waits for a server that it has killed",
    "tests/fakes/faulty_worker.py": "stands for a worker that hangs; the supervisor under test ends it",
    "tests/fakes/speaker_stand_in.py": "stands for a pipeline that is slow or hangs; the server under test ends it",
    "tests/fakes/scripted_model.py": "stands for a device whose steps take time",
    "tests/unit/submitting_program.py": "a program that runs until the test kills it",
    "tests/unit/test_engine_requests.py": "asks futures of asyncio, which answer at once or fail",
}
ENDLESS_WAITS = {"acquire", "communicate", "exception", "join", "readline", "result", "wait"}
"""Methods that wait for ever when they are called without arguments."""


def tests_wait_for_conditions(tree: Tree) -> list[str]:
    """Tests sleep nowhere but in the files of OWN_WAITS; giving way to other tasks by `asyncio.sleep(0)` is no wait."""
    return [
        f"{source.relative}:{call.lineno} waits for a time; see tests/fakes/waiting.py"
        for source, call in _calls_of_tests(tree)
        if _name_of(call) in {"time.sleep", "asyncio.sleep", "sleep"}
        and [*map(ast.unparse, call.args)] != ["0"]
    ]


def tests_wait_with_an_end(tree: Tree) -> list[str]:
    """Tests give every wait a time after which it fails, but in the files of OWN_WAITS.

    A coroutine's waits end with `run` of tests/fakes/waiting.py, so what is awaited needs no end of its own.
    """
    awaited = {
        node.value
        for source in tree.sources
        if source.relative.startswith("tests/")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Await)
    }
    found = []
    for source, call in _calls_of_tests(tree):
        name = _name_of(call)
        has_timeout = any(keyword.arg == "timeout" for keyword in call.keywords)
        is_endless = (
            (isinstance(call.func, ast.Attribute) and call.func.attr in ENDLESS_WAITS)
            and not (call.args or call.keywords or call in awaited)
        ) or (
            name in {"subprocess.run", "subprocess.check_output", "subprocess.check_call"} and not has_timeout
        )
        if is_endless or name == "asyncio.run":
            found.append(f"{source.relative}:{call.lineno} may wait for ever; see tests/fakes/waiting.py")
    return found


def _calls_of_tests(tree: Tree) -> Iterator[tuple[Source, ast.Call]]:
    for source in tree.sources:
        is_test = source.relative.startswith("tests/")
        if is_test and source.relative not in OWN_WAITS:
            yield from ((source, node) for node in ast.walk(source.tree) if isinstance(node, ast.Call))


def _name_of(call: ast.Call) -> str:
    """`function` or `module.function`; nothing for any other form of call."""
    match call.func:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return f"{owner}.{name}"
        case _:
            return ""


WAITING_RULES: tuple[Callable[[Tree], list[str]], ...] = (tests_wait_for_conditions, tests_wait_with_an_end)
