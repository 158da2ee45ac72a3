"""Check whether strict mode accepts a JSON schema, and repair the schemas of tools.

docs/protocol.md describes the service's rules in P131 to P144.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.values import as_list, as_mapping, depth

_TYPES = frozenset(("string", "number", "integer", "boolean", "object", "array", "null"))
# The most common keywords that strict mode accepts (P138).
_STRICT_KEYWORDS = {"type", "properties", "required", "additionalProperties", "items", "anyOf"}
_STRICT_KEYWORDS |= {"enum", "const", "$ref", "$defs", "title", "description"}
# Allowed levels of dicts and lists: more than real schemas have, and few enough for recursion.
_MAX_LEVELS = 200
# Keywords whose value is a dict of schemas, a list of schemas, or one schema.
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf")
_ONE_SCHEMA = ("items", "additionalProperties", "contains", "not", "if", "then", "else")
# Keywords that the root of a tool's parameters may not have (P141).
_NOT_AT_ROOT = ("anyOf", "oneOf", "allOf", "enum", "const", "not", "$ref")


def check_json(schema: Any, name: str) -> None:
    """Raise ChatGPTError for a schema that is not JSON, such as a dict that contains itself.

    The message calls the schema by this `name`. The other functions need a schema that passes.
    """
    try:
        json.dumps(schema)
        if depth(schema) > _MAX_LEVELS:
            raise RecursionError
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatGPTError(
            f"{name} cannot be written as JSON.",
            "Look for a dict that contains itself, or for values that JSON does not have.",
        ) from error


# Strict mode ------------------------------------------------------------------------


def is_strict(schema: Any) -> bool:
    """Check whether strict mode accepts a schema; False if that is unknown."""
    is_object = as_mapping(schema).get("type") == "object"
    return is_object and _repaired(schema) == schema and _is_strict_part(schema, schema)


def _is_strict_part(part: Any, root: dict[str, Any]) -> bool:
    if not isinstance(part, dict) or part.keys() - _STRICT_KEYWORDS:
        return False
    if "$ref" in part:
        target = _resolve(part["$ref"], root)
        return len(part) == 1 and isinstance(target, dict) and "$ref" not in target
    if ("type" in part) == ("anyOf" in part):
        return False
    properties = part.get("properties", {})
    if "properties" in part or "object" in _types(part):
        required = sorted(map(str, part.get("required", [])))
        if part.get("additionalProperties") is not False or required != sorted(properties):
            return False
    inner = [*properties.values(), *part.get("$defs", {}).values(), *part.get("anyOf", [])]
    inner += [part["items"]] if "items" in part else []
    return all(_is_strict_part(schema, root) for schema in inner)


# The parameters of a tool -------------------------------------------------------------


def tool_parameters(schema: Any, name: str) -> dict[str, Any]:
    """Return a tool's input schema in a form that the service accepts (P139 to P143).

    A union at the root becomes one object with the properties of all alternatives, arrays with a
    schema for each item get one schema for all items, and malformed keywords are dropped. `schema`
    is not changed; `name` is the name of the tool. Raises ChatGPTError if the schema is not JSON.
    """
    check_json(schema, f"The input schema of the tool {name}")
    root = _repaired(schema or {})
    return _as_object(as_mapping(root), as_mapping(root), ())


def _repaired(schema: Any) -> Any:
    """Add `items` to arrays and drop malformed keywords, at every level."""
    if not isinstance(schema, dict):
        return schema if isinstance(schema, bool) else {}
    repaired = {}
    for name, value in _without_tuple(schema).items():
        value = _repaired_value(name, value)
        if value is not None or name in ("default", "const"):
            repaired[name] = value
    if "array" in _types(repaired):
        repaired.setdefault("items", {})
    return repaired


def _repaired_value(name: str, value: Any) -> Any:
    """Repair the value of one keyword; None if it is malformed."""
    if name in _SCHEMAS_BY_NAME:
        named = {key: _repaired(inner) for key, inner in as_mapping(value).items()}
        return named if isinstance(value, dict) else None
    if name in _SCHEMA_LISTS:
        return [_repaired(inner) for inner in as_list(value)] or None
    if name in _ONE_SCHEMA:
        return _repaired(value)
    if name == "type" and isinstance(value, str):
        return value if value in _TYPES else None
    if name in ("type", "enum"):
        return [v for v in as_list(value) if name == "enum" or str(v) in _TYPES] or None
    if name == "required":
        return value if isinstance(value, list) else None
    return value


def _without_tuple(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace a list of schemas, one for each item of an array, by one schema for all items."""
    items = schema.get("items")
    if "prefixItems" not in schema and not isinstance(items, list):
        return schema
    choices = [*as_list(schema.get("prefixItems")), *as_list(items)]
    choices += [s for s in (items, schema.get("additionalItems")) if isinstance(s, dict)]
    rest = {k: v for k, v in schema.items() if k not in ("prefixItems", "additionalItems")}
    return {**rest, "items": _any_of(choices)}


def _as_object(
    schema: Mapping[str, Any], root: Mapping[str, Any], followed: tuple[Any, ...]
) -> dict[str, Any]:
    """Build an object's schema without unions and references at its root.

    It has the properties of all alternatives. A property is required if every alternative
    requires it. `followed` holds the references that led here. Each is followed only once, because
    a schema can contain itself.
    """
    groups = [[part] for part in schema.get("allOf", [])]
    groups += [schema.get(union, []) for union in ("anyOf", "oneOf")]
    reference = schema.get("$ref")
    if reference not in followed:
        groups.append([_resolve(reference, root)])
    choices = {name: [part] for name, part in schema.get("properties", {}).items()}
    required = list(schema.get("required", []))
    for group in groups:
        objects = [
            _as_object(part, root, (*followed, reference))
            for part in group
            if isinstance(part, dict) and ("type" not in part or "object" in _types(part))
        ]
        for name, part in (pair for each in objects for pair in each["properties"].items()):
            choices.setdefault(name, []).append(part)
        first = objects[0].get("required", []) if objects else []
        required += [n for n in first if all(n in each.get("required", []) for each in objects)]
    rest = {name: value for name, value in schema.items() if name not in _NOT_AT_ROOT}
    properties = {name: _any_of(parts) for name, parts in choices.items()}
    merged = rest | {"type": "object", "properties": properties}
    if required:
        merged["required"] = _distinct(required)
    return merged


def _any_of(schemas: Iterable[Any]) -> Any:
    """Build a schema that accepts every value that one of these schemas accepts."""
    choices = _distinct(schemas)
    return {"anyOf": choices} if len(choices) > 1 else next(iter(choices), {})


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Return the values without duplicates, compared as JSON because 1 == True in Python."""
    return list({json.dumps(value): value for value in values}.values())


def _types(schema: dict[str, Any]) -> list[Any]:
    types = schema.get("type", [])
    return types if isinstance(types, list) else [types]


def _resolve(reference: Any, root: Mapping[str, Any]) -> Any:
    """Follow a reference within the same document (RFC 6901); None if it leads nowhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    target: Any = root
    for name in urllib.parse.unquote(reference).split("/")[1:]:
        target = as_mapping(target).get(name.replace("~1", "/").replace("~0", "~"))
    return target
