"""JSON schemas: which ones strict mode takes, and parameters that the service accepts.

The service's rules are in docs/protocol.md, "Schemas". Nothing here knows llm.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.values import as_list, as_mapping

_TYPES = frozenset(("string", "number", "integer", "boolean", "object", "array", "null"))
_STRICT_KEYWORDS = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const"),
        *("anyOf", "$ref", "$defs", "title", "description"),
    )
)
_STRICT_LEVELS = 10
# More than any tool has, and few enough for a function that calls itself.
_REPAIRED_LEVELS = 100
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf")
_ONE_SCHEMA = (
    *("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
# Keywords that the root of a tool's parameters may not have.
_NOT_AT_ROOT = ("anyOf", "oneOf", "allOf", "enum", "const", "not", "$ref")


def check_json(schema: Any, name: str) -> None:
    """Raise ChatGPTError for a schema that is not JSON, such as a dict that contains itself.

    `name` says in the message which schema it is.
    """
    try:
        json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatGPTError(
            f"{name} cannot be written as JSON.",
            "Look for a dict that contains itself, or for values that JSON does not have.",
        ) from error


# Strict mode ------------------------------------------------------------------------


def is_strict(schema: Any) -> bool:
    """Whether strict mode takes a schema. Where the rules are not known, it does not."""
    kind = as_mapping(schema).get("type")
    return kind == "object" and _is_strict_part(schema, schema, 1)


def _is_strict_part(part: Any, root: dict[str, Any], level: int) -> bool:
    if not isinstance(part, dict) or level > _STRICT_LEVELS or not _has_strict_form(part):
        return False
    if "$ref" in part:
        target = _resolve(part["$ref"], root)
        return len(part) == 1 and isinstance(target, dict) and "$ref" not in target
    properties = part.get("properties", {})
    if "properties" in part or "object" in _types(part):
        required = sorted(map(str, part.get("required", [])))
        if part.get("additionalProperties") is not False or required != sorted(properties):
            return False
    inner = [*properties.values(), *part.get("$defs", {}).values(), *part.get("anyOf", [])]
    inner += [part["items"]] if "items" in part else []
    return all(_is_strict_part(one, root, level + 1) for one in inner)


def _has_strict_form(part: dict[str, Any]) -> bool:
    """Whether all keywords of a schema are known to strict mode and well-formed."""
    shapes = {"properties": dict, "$defs": dict, "anyOf": list, "required": list, "enum": list}
    if not _STRICT_KEYWORDS.issuperset(part):
        return False
    if not all(isinstance(part.get(name, shape()), shape) for name, shape in shapes.items()):
        return False
    if not all(part.get(name, True) for name in ("type", "anyOf", "enum")):
        return False
    kinds = _types(part)
    says_what = sum(("type" in part, "anyOf" in part, "$ref" in part)) == 1
    known = all(str(kind) in _TYPES for kind in kinds)
    return says_what and known and ("array" not in kinds or "items" in part)


# The parameters of a tool -------------------------------------------------------------


def tool_parameters(schema: Any, name: str) -> dict[str, Any]:
    """A tool's input schema in a form that the service accepts.

    Unions at the root become optional properties, tuples become lists, and keywords whose
    values have the wrong form go. `schema` is not changed. Raises ChatGPTError for one that
    is not JSON; `name` is the tool's.
    """
    check_json(schema, f"The input schema of the tool {name}")
    root = _repaired(schema or {}, _REPAIRED_LEVELS)
    return _as_object(as_mapping(root), as_mapping(root), ())


def _repaired(schema: Any, levels: int) -> Any:
    """A schema whose arrays have `items`, down to this many levels, without keywords whose
    values have the wrong form. Deeper schemas allow anything."""
    if not isinstance(schema, dict) or not levels:
        return schema if isinstance(schema, bool) else {}
    repaired = {}
    for name, value in _without_tuple(schema).items():
        value = _repaired_value(name, value, levels - 1)
        if value is not None or name in ("default", "const"):
            repaired[name] = value
    if "array" in _types(repaired):
        repaired.setdefault("items", {})
    return repaired


def _repaired_value(name: str, value: Any, levels: int) -> Any:
    """The value of one keyword; None if it has the wrong form."""
    if name in _SCHEMAS_BY_NAME:
        named = {key: _repaired(inner, levels) for key, inner in as_mapping(value).items()}
        return named if isinstance(value, dict) else None
    if name in _SCHEMA_LISTS:
        return [_repaired(inner, levels) for inner in as_list(value)] or None
    if name in _ONE_SCHEMA:
        return _repaired(value, levels)
    if name == "type" and isinstance(value, str):
        return value if value in _TYPES else None
    if name in ("type", "enum"):
        return [one for one in as_list(value) if name == "enum" or str(one) in _TYPES] or None
    if name == "required":
        return value if isinstance(value, list) else None
    return value


def _without_tuple(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with one schema for all items of an array instead of one for each place."""
    items = schema.get("items")
    if "prefixItems" not in schema and not isinstance(items, list):
        return schema
    choices = [*as_list(schema.get("prefixItems")), *as_list(items)]
    choices += [one for one in (items, schema.get("additionalItems")) if isinstance(one, dict)]
    others = {k: v for k, v in schema.items() if k not in ("prefixItems", "additionalItems")}
    return {**others, "items": _any_of(choices)}


def _as_object(
    schema: Mapping[str, Any], root: Mapping[str, Any], seen: tuple[Any, ...]
) -> dict[str, Any]:
    """The schema of an object without unions and references at its root.

    It has the properties of all alternatives. One is required if every alternative requires
    it. `seen` are the references that led here, so that none is followed in a circle.
    """
    groups = [[part] for part in schema.get("allOf", [])]
    groups += [schema.get(union, []) for union in ("anyOf", "oneOf")]
    reference = schema.get("$ref")
    if reference not in seen:
        groups.append([_resolve(reference, root)])
    choices = {name: [part] for name, part in schema.get("properties", {}).items()}
    required = list(schema.get("required", []))
    for group in groups:
        objects = [
            _as_object(part, root, (*seen, reference))
            for part in group
            if isinstance(part, dict) and ("type" not in part or "object" in _types(part))
        ]
        for name, part in (pair for one in objects for pair in one["properties"].items()):
            choices.setdefault(name, []).append(part)
        always = objects[0].get("required", []) if objects else []
        required += [n for n in always if all(n in one.get("required", []) for one in objects)]
    kept = {name: value for name, value in schema.items() if name not in _NOT_AT_ROOT}
    merged = {"type": "object", "properties": {}, **kept}
    merged["type"] = "object"
    merged["properties"] = {name: _any_of(parts) for name, parts in choices.items()}
    if required:
        merged["required"] = _distinct(required)
    return merged


def _any_of(schemas: Iterable[Any]) -> Any:
    """A schema that allows what any of these allows."""
    choices = _distinct(schemas)
    return {"anyOf": choices} if len(choices) > 1 else next(iter(choices), {})


def _distinct(values: Iterable[Any]) -> list[Any]:
    # As JSON, because for Python 1 and True are equal.
    return list({json.dumps(value): value for value in values}.values())


def _types(schema: dict[str, Any]) -> list[Any]:
    kinds = schema.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _resolve(ref: Any, root: Mapping[str, Any]) -> Any:
    """The schema that a reference within the same document leads to; None without one."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    found: Any = root
    for name in urllib.parse.unquote(ref).split("/")[1:]:
        found = as_mapping(found).get(name.replace("~1", "/").replace("~0", "~"))
    return found
