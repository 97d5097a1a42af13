"""JSON Schema, as much of it as the server's own description uses; a keyword that is not known here is an error.

Written out rather than imported, so that the tests need no further package; Schemathesis checks the same description
with a full validator.
"""

from __future__ import annotations

import json
import re
from typing import Any

NOTES = {"description", "examples", "example", "default", "format", "contentMediaType", "contentEncoding"}


def violations(value: Any, schema: dict[str, Any], document: dict[str, Any], where: str = "$") -> list[str]:
    """Errors of a value as sentences; none when it fits."""
    found: list[str] = []
    for keyword, wanted in schema.items():
        if keyword in NOTES:
            continue
        rule = _RULES.get(keyword)
        if rule is None:
            found.append(f"{where}: the description uses {keyword}, which this check does not know")
        else:
            found += rule(value, wanted, schema, document, where)
    return found


def resolve(reference: str, document: dict[str, Any]) -> dict[str, Any]:
    """The target of a `$ref`; raises KeyError when there is none."""
    assert reference.startswith("#/"), reference
    found: Any = document
    for part in reference[2:].split("/"):
        found = found[part]
    return found


def _is_type(value: Any, name: str) -> bool:
    match name:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "integer":
            return _is_type(value, "number") and float(value).is_integer()
    raise ValueError(f"{name} is no type of JSON Schema")


def _type(value, wanted, schema, document, where):
    names = [wanted] if isinstance(wanted, str) else wanted
    return [] if any(_is_type(value, name) for name in names) else [f"{where}: {value!r} is no {wanted}"]


def _enum(value, wanted, schema, document, where):
    fits = any(value == one and type(value) is type(one) for one in wanted)
    return [] if fits else [f"{where}: {value!r} is none of {wanted}"]


def _properties(value, wanted, schema, document, where):
    if not isinstance(value, dict):
        return []
    return [
        one
        for name in wanted.keys() & value.keys()
        for one in violations(value[name], wanted[name], document, f"{where}.{name}")
    ]


def _required(value, wanted, schema, document, where):
    missing = set(wanted) - set(value) if isinstance(value, dict) else set()
    return [f"{where}: {name} is missing" for name in sorted(missing)]


def _additional(value, wanted, schema, document, where):
    assert wanted is False
    extra = set(value) - set(schema.get("properties", {})) if isinstance(value, dict) else set()
    return [f"{where}: {name} is not described" for name in sorted(extra)]


def _items(value, wanted, schema, document, where):
    if not isinstance(value, list):
        return []
    return [
        one
        for index, entry in enumerate(value)
        for one in violations(entry, wanted, document, f"{where}[{index}]")
    ]


def _one_of(value, wanted, schema, document, where):
    fitting = sum(not violations(value, one, document, where) for one in wanted)
    return [] if fitting == 1 else [f"{where}: {fitting} of the alternatives fit, not one"]


def _any_of(value, wanted, schema, document, where):
    each = [violations(value, one, document, where) for one in wanted]
    return [] if not all(each) else [f"{where}: fits none of the alternatives ({min(each, key=len)[0]})"]


def _content(value, wanted, schema, document, where):
    try:
        content = json.loads(value)
    except ValueError:
        return [f"{where}: {value!r} is no JSON"]
    return violations(content, wanted, document, f"{where} (content)")


def _bound(fits, applies):
    def rule(value, wanted, schema, document, where):
        bad = applies(value) and not fits(value, wanted)
        return [f"{where}: {value!r} is outside the bound {wanted!r}"] if bad else []

    return rule


def _is_number(value: Any) -> bool:
    return _is_type(value, "number")


_RULES: dict[str, Any] = {
    "$ref": lambda value, wanted, schema, document, where: violations(
        value, resolve(wanted, document), document, where
    ),
    "type": _type,
    "enum": _enum,
    "const": lambda value, wanted, *rest: _enum(value, [wanted], *rest),
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
    "oneOf": _one_of,
    "anyOf": _any_of,
    "allOf": lambda value, wanted, schema, document, where: [
        one for part in wanted for one in violations(value, part, document, where)
    ],
    "contentSchema": _content,
    "minimum": _bound(lambda value, bound: value >= bound, _is_number),
    "maximum": _bound(lambda value, bound: value <= bound, _is_number),
    "minLength": _bound(lambda value, bound: len(value) >= bound, lambda value: isinstance(value, str)),
    "maxLength": _bound(lambda value, bound: len(value) <= bound, lambda value: isinstance(value, str)),
    "minItems": _bound(lambda value, bound: len(value) >= bound, lambda value: isinstance(value, list)),
    "maxItems": _bound(lambda value, bound: len(value) <= bound, lambda value: isinstance(value, list)),
    "pattern": _bound(lambda value, bound: re.search(bound, value), lambda value: isinstance(value, str)),
}
