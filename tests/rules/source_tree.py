"""The Python sources of a tree as syntax trees, with what each imports. Nothing is imported or run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

IMPORT_PACKAGE = "scribewire"
PRODUCT_PACKAGES = ("engine", "server")
"""Folders at the top that are imported as packages of IMPORT_PACKAGE. Rules name modules without it."""

SCANNED_FOLDERS = (IMPORT_PACKAGE, *PRODUCT_PACKAGES, "tools", "tests", "deploy")


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
        """The dotted name without IMPORT_PACKAGE, a package's own name for its __init__.py."""
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
            # rglob follows no links, so the product's folders are read once.
            for path in sorted((root / folder).rglob("*.py")):
                relative = path.relative_to(root).as_posix()
                if "__pycache__" not in relative:
                    found.append(Source(relative, path.read_text(encoding="utf-8")))
        return cls(tuple(found))

    @property
    def product(self) -> tuple[Source, ...]:
        """The sources that are shipped."""
        shipped = {IMPORT_PACKAGE, *PRODUCT_PACKAGES}
        return tuple(one for one in self.sources if one.relative.split("/")[0] in shipped)

    @cached_property
    def modules(self) -> set[str]:
        """The dotted names of all sources."""
        return {one.module for one in self.sources}

    def imports(self, source: Source) -> list[Import]:
        """Every import of one source, `from package import module` resolved, without IMPORT_PACKAGE in front."""
        return [replace(one, name=inside_package(one.name)) for one in self.raw_imports(source)]

    def raw_imports(self, source: Source) -> list[Import]:
        """The same by the names that stand there."""
        modules = self.modules | {f"{IMPORT_PACKAGE}.{name}" for name in self.modules}
        return list(_imports_below(source, source.tree, modules, late=False, typing_only=False))


def inside_package(name: str) -> str:
    """A module's name without IMPORT_PACKAGE in front; names of other packages as they are."""
    rest = name.removeprefix(f"{IMPORT_PACKAGE}.")
    return rest if rest.split(".")[0] in PRODUCT_PACKAGES else name


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
                if anchor[0] in PRODUCT_PACKAGES:
                    anchor = [IMPORT_PACKAGE, *anchor]
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
