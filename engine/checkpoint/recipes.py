"""Quantization recipes: which matrix is stored in how many bits, by name or by a file of rules.

Module names are canonical ones (`model.layers.0.mlp.up_proj`). Reads no tensor; a rule that MLX has no form for is
refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from scribewire.engine.checkpoint.layouts import AFFINE, FLOATING_MODES, GROUP_SIZES, QUANTIZED_BITS
from scribewire.engine.protocol.errors import OptionInvalid

RULES_SUFFIX = ".toml"
EMBED8 = "embed8"
_UNQUANTIZED_BITS = 16
_KEYS = {"modules", "bits", "group_size", "mode"}


@dataclass(frozen=True, slots=True)
class Scheme:
    """One of MLX's quantized forms. group_size: weights of a row that share a scale."""

    bits: int
    group_size: int = 64
    mode: str = AFFINE

    @property
    def declared(self) -> dict[str, Any]:
        """The same as config.json has it."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def __str__(self) -> str:
        return f"{self.mode}, {self.bits} bits, groups of {self.group_size}"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done with some modules. modules: a pattern with `*`. scheme: None leaves them as they are."""

    modules: str
    scheme: Scheme | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules in order: the first that fits a module holds for it, and what none fits is left as it is."""

    name: str
    rules: tuple[Rule, ...]

    def scheme_of(self, module: str) -> Scheme | None:
        """The form of a Linear's or an embedding's matrix."""
        return next((rule.scheme for rule in self.rules if fnmatchcase(module, rule.modules)), None)

    def unused_rules(self, modules: Iterable[str]) -> list[str]:
        """Patterns that fit no module at all, so that a slip of the pen is not taken for a rule."""
        names = list(modules)
        return [rule.modules for rule in self.rules if not any(fnmatchcase(n, rule.modules) for n in names)]


def _decoder(scheme: Scheme) -> tuple[Rule, ...]:
    """Embeddings, decoder and a head of its own, but not the audio tower."""
    return Rule("model.*", scheme), Rule("lm_head", scheme)


def _floating(mode: str) -> Scheme:
    bits, group_size = FLOATING_MODES[mode]
    return Scheme(bits, group_size, mode)


RECIPES: dict[str, tuple[Rule, ...]] = {
    **{f"{bits}bit": _decoder(Scheme(bits)) for bits in (4, 5, 6, 8)},
    "audio8-text4": (Rule("audio_tower.*", Scheme(8)), *_decoder(Scheme(4))),
    "attn8-mlp4": (Rule("model.layers.*.self_attn.*", Scheme(8)), Rule("model.layers.*.mlp.*", Scheme(4))),
    **{mode: _decoder(_floating(mode)) for mode in FLOATING_MODES},
}


def find_recipe(text: str) -> Recipe:
    """A recipe by its name, by a name with `+embed8`, or by the path of a file of rules (.toml).

    raises: OptionInvalid, OSError
    """
    if text.endswith(RULES_SUFFIX):
        return read_rules(Path(text))
    name, plus, extra = text.partition("+")
    if name not in RECIPES or (plus and extra != EMBED8):
        raise OptionInvalid(
            f"there is no recipe {text!r}; recipes are {', '.join(RECIPES)}, each also with +{EMBED8}, or a file of "
            f"rules (*{RULES_SUFFIX})",
            parameter="recipe",
        )
    first = (Rule("model.embed_tokens", Scheme(8)),) if plus else ()
    return Recipe(text, first + RECIPES[name])


def read_rules(path: Path) -> Recipe:
    """A recipe from a file: tables `[[rule]]` with `modules`, `bits` (16 leaves as it is), `group_size` and `mode`.

    raises: OptionInvalid naming file and rule, OSError
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionInvalid(f"{path}: {error}", parameter="recipe") from None
    rules = content.get("rule")
    if set(content) != {"rule"} or not isinstance(rules, list) or not rules:
        raise OptionInvalid(f"{path} holds something else than tables [[rule]]", parameter="recipe")
    read = []
    for number, table in enumerate(rules, start=1):
        try:
            read.append(_rule(table))
        except ValueError as error:
            raise OptionInvalid(f"{path}, rule {number}: {error}", parameter="recipe") from None
    return Recipe(path.stem, tuple(read))


def _rule(table: Any) -> Rule:
    if not isinstance(table, Mapping):
        raise ValueError("it is no table")
    if unknown := sorted(set(table) - _KEYS):
        raise ValueError(f"unknown key {unknown[0]!r}; keys are {', '.join(sorted(_KEYS))}")
    modules, mode = table.get("modules"), table.get("mode", AFFINE)
    if not isinstance(modules, str) or not modules:
        raise ValueError("modules must be a name or a pattern such as 'model.layers.*.mlp.*'")
    if mode in FLOATING_MODES:
        scheme = _floating(mode)
        if any(table.get(key, value) != value for key, value in scheme.declared.items()):
            raise ValueError(f"mode {mode} has {scheme.bits} bits in groups of {scheme.group_size}")
        return Rule(modules, scheme)
    if mode != AFFINE:
        raise ValueError(f"unknown mode {mode!r}; modes are {', '.join((AFFINE, *FLOATING_MODES))}")
    bits, group_size = table.get("bits"), table.get("group_size", Scheme(4).group_size)
    if bits == _UNQUANTIZED_BITS:
        return Rule(modules, None)
    if bits not in QUANTIZED_BITS or isinstance(bits, float):
        known = ", ".join(map(str, (*QUANTIZED_BITS, _UNQUANTIZED_BITS)))
        raise ValueError(f"bits is {bits!r}, not one of {known}")
    if group_size not in GROUP_SIZES or isinstance(group_size, float):
        raise ValueError(f"group_size is {group_size!r}, not one of {', '.join(map(str, GROUP_SIZES))}")
    return Rule(modules, Scheme(bits, group_size))
