"""Rules for files and their texts: names, length, docstrings, what prose names, silenced checks, the environment."""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator

from tests.rules.source_tree import IMPORT_PACKAGE, Source, Tree

LINE_LIMIT = 450
ROOT_LIMITS = {"server": 6, "engine": 5}
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "core", "misc"}
ENVIRONMENT_READERS = {
    "engine/bench/serving.py": "a measured server is started without the settings of the environment",
    "server/http/certificates.py": "SSL_CERT_FILE and SSL_CERT_DIR are OpenSSL's, and no settings of this server",
    "server/settings/fields.py": "the one reader of the environment and of the config file",
    "engine/processes/allocator.py": "what is loaded into a process before it begins can be said nowhere else",
    "engine/resident/profile.py": "sets what MLX itself takes from nowhere else; reads the device where none is named",
}


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


def roots_hold_few_files(tree: Tree) -> list[str]:
    """The roots of server and engine stay small: a new file has a place in a folder of its subject."""
    counts = Counter(source.relative.rpartition("/")[0] for source in tree.product)
    return [
        f"{root}/ holds {counts[root]} files in its root; the limit is {limit}"
        for root, limit in ROOT_LIMITS.items()
        if counts[root] > limit
    ]


def modules_say_what_they_are_for(tree: Tree) -> list[str]:
    """Every module opens with a docstring."""
    return [f"{one.relative} has no docstring" for one in tree.sources if not ast.get_docstring(one.tree)]


def prose_names_what_exists(tree: Tree) -> list[str]:
    """Docstrings and comments of the product name no module and no Python file that is not there."""
    named = re.compile(
        r"(?<![\w./-])scribewire\.(?:engine|server)(?:\.\w+)+|(?:engine|server|tests|deploy)/[\w/]+\.py\b"
    )
    texts = {f"{IMPORT_PACKAGE}.{one.module}": one.text for one in tree.sources}
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


FILE_RULES: tuple[Callable[[Tree], list[str]], ...] = (
    environment_is_read_in_one_place,
    files_are_named_for_their_subject,
    files_stay_short,
    roots_hold_few_files,
    modules_say_what_they_are_for,
    prose_names_what_exists,
    silenced_checks_give_a_reason,
)
