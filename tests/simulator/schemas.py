"""Checks JSON schemas as the service does (docs/protocol.md, "Schemas").

`strict_fault` and `parameters_fault` return the fault in the service's words, or None.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from typing import Any

TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
MAX_LEVELS = 10
# Not allowed at the root of any schema.
UNIONS = ("oneOf", "anyOf", "allOf", "enum", "not")
# Not allowed anywhere in a strict schema.
NOT_STRICT = (
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "default",
    "uniqueItems",
    "prefixItems",
    "dependentRequired",
    "dependentSchemas",
    "patternProperties",
    "propertyNames",
    "contains",
    "minProperties",
    "maxProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
)


def strict_fault(schema: dict[str, Any]) -> str | None:
    """Return why a schema may not have `strict: true`, or None."""
    found = next(_strict_faults(schema, schema, (), 1), None)
    return root_fault(schema) or found


def parameters_fault(schema: dict[str, Any]) -> str | None:
    """Return why a function may not have these parameters, or None."""
    return root_fault(schema) or next(_form_faults(schema, ()), None)


def root_fault(schema: dict[str, Any]) -> str | None:
    kind = schema.get("type")
    if kind != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    if any(name in schema for name in UNIONS):
        listed = "'oneOf'/'anyOf'/'allOf'/'enum'/'not'"
        return f"schema must have type 'object' and not have {listed} at the top level."
    return None


def types_of(schema: dict[str, Any]) -> list[Any]:
    kinds = schema.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def inner_schemas(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in ("properties", "$defs", "definitions"):
        for key, inner in schema.get(name, {}).items():
            yield (name, key), inner
    for name in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, inner in enumerate(schema.get(name, [])):
            yield (name, str(number)), inner
    for name in ("items", "additionalProperties", "not"):
        if name in schema:
            yield (name,), schema[name]


def _form_faults(schema: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Yield the faults, at any depth, that are refused in every schema, strict or not."""
    here = f"In context={path}, "
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield f"{here}{schema} is not of type 'object', 'boolean'."
        return
    kinds = types_of(schema)
    for kind in kinds:
        if kind not in TYPES:
            yield f"{here}{kind!r} is not valid under any of the given schemas."
    if "array" in kinds and "items" not in schema:
        yield f"{here}array schema missing items."
    for name, shape in (("properties", dict), ("required", list), ("enum", list), ("anyOf", list)):
        if name in schema and not isinstance(schema[name], shape):
            yield f"{here}{schema[name]!r} is not of type '{shape.__name__}'."
            return
    if not all(schema.get(name, [1]) for name in ("enum", "anyOf", "oneOf", "allOf")):
        yield f"{here}[] should be non-empty."
    for part, inner in inner_schemas(schema):
        yield from _form_faults(inner, (*path, *part))


def _strict_faults(
    schema: Any, root: dict[str, Any], path: tuple[str, ...], level: int
) -> Iterator[str]:
    here = f"In context={path}, "
    if level > MAX_LEVELS:
        yield f"{level} levels of nesting exceeds limit of {MAX_LEVELS}."
        return
    yield from _form_faults(schema, path)
    if isinstance(schema, bool):
        yield f"{here}schema must have a 'type' key."
        return
    if "$ref" in schema:
        if extra := set(schema) - {"$ref"}:
            yield f"{here}$ref cannot have keywords {extra}."
        if not refers(schema["$ref"], root):
            yield f"{here}reference to component '{schema['$ref']}' was not found in the schema."
        return
    for name in NOT_STRICT:
        if name in schema:
            yield f"{here}'{name}' is not permitted."
    kinds = types_of(schema)
    if not kinds and "anyOf" not in schema:
        yield f"{here}schema must have a 'type' key."
    if "object" in kinds or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            yield f"{here}'additionalProperties' is required to be supplied and to be false."
        names = schema.get("properties", {})
        if sorted(schema.get("required", [])) != sorted(names):
            yield f"{here}'required' is required to be supplied and to include every key."
    for part, inner in inner_schemas({**schema, "additionalProperties": True}):
        deeper = part[0] in ("properties", "items")
        if part[0] != "additionalProperties":
            yield from _strict_faults(inner, root, (*path, *part), level + deeper)


def refers(ref: Any, root: dict[str, Any]) -> bool:
    """Whether a reference leads to a schema within the same document."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return False
    found: Any = root
    for name in urllib.parse.unquote(ref).split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return isinstance(found, dict)
