"""Schemas of answers and tools: strict mode, and schemas that the service would refuse."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import llm
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm.default_plugins.openai_models import WebSearch

from llm_chatgpt.backend.schemas import is_strict, tool_parameters
from simulator import Answer, Call, Say, error_answer
from simulator.schemas import TYPES, parameters_fault, strict_fault


def text_format(simulator):
    return simulator.prompts[-1]["text"]["format"]


class Closed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Dog(pydantic.BaseModel):
    name: str
    age: int


class StrictDog(Closed):
    name: str
    age: int


def now() -> str:
    return "12:00"


def test_schemas_work_on_the_command_line(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-luna", "a dog", "--schema", "name, age int", "-R")
    assert json.loads(result.stdout) == {"name": "Pelican", "age": 7}
    assert text_format(simulator)["type"] == "json_schema"
    assert text_format(simulator)["strict"] is False
    result = run_llm("-m", "chatgpt-gpt-6-luna", "dogs", "--schema-multi", "name, age int", "-R")
    assert json.loads(result.stdout) == {"items": [{"name": "Pelican", "age": 7}]}


@pytest.mark.parametrize(("schema", "strict"), [(Dog, False), (StrictDog, True)])
def test_a_pydantic_class_is_strict_only_if_it_is_closed(simulator, signed_in, ask, schema, strict):
    answered = ask("a dog", schema=schema)
    assert schema.model_validate_json(answered.text)
    assert text_format(simulator)["strict"] is strict


def test_json_object_is_sent_as_the_format(simulator, signed_in, ask):
    ask("json please", json_object=True)
    assert text_format(simulator) == {"type": "json_object"}


# Which schemas are strict --------------------------------------------------------------


class Tree(Closed):
    name: str
    children: list[Tree]


class Described(Closed):
    dog: StrictDog = pydantic.Field(description="The dog")


class Anything(Closed):
    value: Any


class BareList(Closed):
    values: list


class MixedLiteral(Closed):
    value: Literal["a", 1]


class Pair(Closed):
    pair: tuple[int, str]


class Kennel(Closed):
    kind: Literal["kennel"]
    size: Literal["s", "l"]
    age: int | None
    dogs: list[StrictDog]


def closed(**properties):
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(properties),
    }


def nested(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = closed(a=schema)
    return schema


TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (Kennel, True),
        (closed(), True),
        (closed(a=TEXT, b={"type": ["string", "null"]}), True),
        (closed(a={"const": 1, "type": "integer"}, b={"type": "string", "enum": ["x"]}), True),
        (
            {**closed(a={"type": "array", "items": {"$ref": "#/$defs/X"}}), "$defs": {"X": TEXT}},
            True,
        ),
        ({**closed(a={"$ref": "#/$defs/a~1b%20"}), "$defs": {"a/b ": TEXT}}, True),
        (closed(a={"anyOf": [{"type": "null"}, {"$ref": "#"}]}), True),
        (nested(9), True),
        # The schema of a class that contains itself is only a reference.
        (Tree, False),
        (Described, False),
        (Anything, False),
        (BareList, False),
        (MixedLiteral, False),
        (Pair, False),
        (nested(11), False),
        ({**closed(), "required": ["a"]}, False),
        ({**closed(a=TEXT), "required": []}, False),
        ({**closed(a=TEXT), "additionalProperties": True}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "array", "items": TEXT}, False),
        ({"type": ["object", "null"], "additionalProperties": False}, False),
        ({**closed(), "anyOf": [closed()]}, False),
        ({"$defs": {"X": closed()}, "$ref": "#/$defs/X"}, False),
        ({"title": "no type"}, False),
        (closed(a={"type": "array"}), False),
        (closed(a={"type": ["array", "null"]}), False),
        (closed(a={"type": "array", "items": [TEXT]}), False),
        (closed(a={"type": "object"}), False),
        (closed(a={"type": ["object", "null"]}), False),
        (closed(a={"anyOf": [{"type": "null"}, {"type": "object"}]}), False),
        (closed(a={"anyOf": []}), False),
        (closed(a={"type": "text"}), False),
        (closed(a={"type": []}), False),
        (closed(a={"type": "string", "enum": []}), False),
        (closed(a={"type": "string", "default": "x"}), False),
        (closed(a={"allOf": [TEXT]}), False),
        (closed(a=True), False),
        (closed(a={"$ref": "#/$defs/missing"}), False),
        (closed(a={"$ref": "https://example.com/schema.json"}), False),
        (closed(a={"$ref": 7}), False),
        ({**closed(a={"$ref": "#/$defs/X"}), "$defs": {"X": {"$ref": "#/$defs/X"}}}, False),
        ({**closed(), "$defs": [1]}, False),
        ({**closed(), "properties": []}, False),
        ({**closed(), "required": [["a"]]}, False),
        ({**closed(), "required": 1}, False),
    ],
)
def test_a_schema_is_sent_as_strict_only_if_strict_mode_accepts_it(
    simulator, signed_in, ask, schema, strict
):
    simulator.answer(Say("{}"))
    assert ask("x", schema=schema).text == "{}"
    assert text_format(simulator)["strict"] is strict


def contains_itself():
    schema = {"type": "object", "properties": {}}
    schema["properties"]["a"] = schema
    return schema


def too_deep():
    schema = {}
    for _ in range(100_000):
        schema = {"items": schema}
    return schema


NOT_JSON = [contains_itself(), too_deep(), {"type": "object", "enum": {1, 2}}]


@pytest.mark.parametrize("schema", NOT_JSON)
def test_a_schema_that_is_not_json_is_refused(simulator, signed_in, ask, schema):
    with pytest.raises(llm.ModelError, match=r"^The schema cannot be written as JSON"):
        ask("x", schema=schema)
    tool = llm.Tool(name="f", input_schema=schema, implementation=lambda: "")
    with pytest.raises(llm.ModelError, match=r"^The input schema of the tool f cannot be written"):
        ask("x", tools=[tool])
    assert simulator.prompts == []


NEW_RULE = "Invalid schema for response_format 'output': a rule that nobody knew."
SCHEMA_REFUSALS = [
    error_answer(400, "invalid_json_schema", NEW_RULE, param="text.format.schema"),
    error_answer(400, None, "A rule that nobody knew.", param="text.format.schema"),
    error_answer(400, None, NEW_RULE, param="response_format"),
    Answer(400, {"detail": NEW_RULE}),
]


@pytest.mark.parametrize("refusal", SCHEMA_REFUSALS)
def test_a_refused_strict_schema_is_sent_without_strict(simulator, signed_in, ask, refusal):
    simulator.script("responses", refusal)
    simulator.answer(Call("now", {}))
    simulator.answer(Say("{}"))
    responses = ask.chain(ask.model(), "x", schema=StrictDog, tools=[now])
    assert responses[-1].text_or_raise() == "{}"
    formats = [prompt["text"]["format"] for prompt in simulator.prompts]
    assert [form["strict"] for form in formats] == [True, False, False]
    assert [form["schema"] for form in formats] == [StrictDog.model_json_schema()] * 3


@pytest.mark.parametrize("refusal", SCHEMA_REFUSALS)
@pytest.mark.parametrize(("schema", "attempts"), [(Dog, 1), (StrictDog, 2)])
def test_a_schema_that_is_also_refused_without_strict_is_an_error(
    simulator, signed_in, ask, refusal, schema, attempts
):
    simulator.script("responses", *[refusal] * attempts)
    with pytest.raises(llm.ModelError) as caught:
        ask("x", schema=schema)
    message = r"^OpenAI refused the schema: .*hat nobody knew\. Change it, or leave it out\."
    assert re.match(message, str(caught.value))
    assert caught.value.code == "invalid_json_schema"
    assert len(simulator.prompts) == attempts


@pytest.mark.parametrize(
    "refusal",
    [
        error_answer(
            400, None, "Invalid schema for function 'now': x", param="tools[0].parameters"
        ),
        error_answer(400, "invalid_value", "Invalid verbosity", param="text.verbosity"),
    ],
)
def test_another_refusal_does_not_blame_the_schema(simulator, signed_in, ask, refusal):
    simulator.script("responses", refusal)
    with pytest.raises(llm.ModelError, match=r"^OpenAI refused the request: Invalid"):
        ask("x", schema=StrictDog, tools=[now])
    assert len(simulator.prompts) == 1


# Schemas and tools ---------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_schema_is_sent_with_each_request_of_a_chain(simulator, signed_in, ask, rounds):
    for _ in range(rounds):
        simulator.answer(Call("now", {}))
    simulator.answer(Say("{}"))
    ask.chain(ask.model(), "When?", schema=StrictDog, tools=[now])
    formats = [prompt["text"]["format"] for prompt in simulator.prompts]
    assert len(formats) == rounds + 1
    assert formats == [formats[0]] * len(formats)
    assert formats[0]["schema"] == StrictDog.model_json_schema()


def test_a_schema_is_not_sent_in_the_next_chain(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    simulator.answer(Call("now", {}))
    simulator.answer(Say("{}"))
    ask.chain(conversation, "When?", schema=StrictDog, tools=[now])
    simulator.answer(Call("now", {}))
    simulator.answer(Say("At noon."))
    ask.chain(conversation, "And now?", tools=[now])
    schemas = [
        prompt.get("text", {}).get("format", {}).get("schema") for prompt in simulator.prompts
    ]
    assert schemas == [StrictDog.model_json_schema()] * 2 + [None] * 2


def test_a_schema_on_the_command_line_is_sent_after_tool_calls(simulator, signed_in, run_llm):
    simulator.answer(Call("llm_time", {}))
    simulator.answer(Say("{}"))
    result = run_llm(
        "-m", "chatgpt-gpt-6-luna", "x", "--schema", "name, age int", "-T", "llm_time", "-R"
    )
    assert (result.stderr, result.stdout) == ("", "{}\n")
    assert text_format(simulator)["schema"] == llm.schema_dsl("name, age int")


# Parameters of tools -------------------------------------------------------------------


def parameters(simulator, signed_in, ask, schema):
    tool = llm.Tool(name="f", input_schema=schema, implementation=lambda **_: "")
    ask("x", tools=[tool])
    return simulator.prompts[-1]["tools"][0]["parameters"]


def an_object(*required, **properties):
    schema = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


NUMBER = {"type": "integer"}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        # Unchanged: parameters may have keywords that a strict schema may not.
        (
            an_object("a", a={"type": "string", "default": "x"}, b={"oneOf": [TEXT, NUMBER]}),
            an_object("a", a={"type": "string", "default": "x"}, b={"oneOf": [TEXT, NUMBER]}),
        ),
        # The root.
        ({}, an_object()),
        ({"type": None}, an_object()),
        ({"type": "null"}, an_object()),
        ({"type": ["object", "null"], "properties": {"a": TEXT}}, an_object(a=TEXT)),
        ({"properties": None, "required": None}, an_object()),
        ({**an_object(a=TEXT), "enum": [1], "not": {}}, an_object(a=TEXT)),
        # Unions at the root.
        (
            {"anyOf": [an_object("a", a=TEXT), an_object("b", b=NUMBER)]},
            an_object(a=TEXT, b=NUMBER),
        ),
        (
            {**an_object("x", x=TEXT), "oneOf": [an_object("a", a=TEXT), an_object("b", b=TEXT)]},
            an_object("x", x=TEXT, a=TEXT, b=TEXT),
        ),
        (
            {
                "oneOf": [
                    an_object("k", "a", k={"const": 1}, a=TEXT),
                    an_object("k", k={"const": True}),
                ]
            },
            an_object("k", k={"anyOf": [{"const": 1}, {"const": True}]}, a=TEXT),
        ),
        ({"anyOf": [{"type": "null"}, an_object("a", a=TEXT)]}, an_object("a", a=TEXT)),
        (
            {**an_object(a=TEXT, b=TEXT), "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            an_object(a=TEXT, b=TEXT),
        ),
        (
            {"allOf": [an_object("a", a=TEXT), an_object("b", b=TEXT)]},
            an_object("a", "b", a=TEXT, b=TEXT),
        ),
        (
            {"anyOf": [{"allOf": [an_object("a", a=TEXT)]}], "title": "T"},
            {"title": "T", **an_object("a", a=TEXT)},
        ),
        # References at the root.
        (
            {"$ref": "#/$defs/X", "$defs": {"X": an_object("a", a=TEXT)}},
            {"$defs": {"X": an_object("a", a=TEXT)}, **an_object("a", a=TEXT)},
        ),
        (
            {"anyOf": [{"$ref": "#/$defs/X"}], "$defs": {"X": {"anyOf": [{"$ref": "#/$defs/X"}]}}},
            {"$defs": {"X": {"anyOf": [{"$ref": "#/$defs/X"}]}}, **an_object()},
        ),
        ({"$ref": "#/$defs/missing"}, an_object()),
        ({"$ref": "#"}, an_object()),
        # Arrays.
        (an_object(a={"type": "array"}), an_object(a={"type": "array", "items": {}})),
        (
            an_object(a={"type": ["array", "null"]}),
            an_object(a={"type": ["array", "null"], "items": {}}),
        ),
        (
            an_object(a={"anyOf": [{"type": "array"}, TEXT]}),
            an_object(a={"anyOf": [{"type": "array", "items": {}}, TEXT]}),
        ),
        (
            {**an_object(), "$defs": {"X": an_object(a={"items": {"type": "array"}})}},
            {**an_object(), "$defs": {"X": an_object(a={"items": {"type": "array", "items": {}}})}},
        ),
        (
            {**an_object(), "additionalProperties": {"type": "array"}},
            {**an_object(), "additionalProperties": {"type": "array", "items": {}}},
        ),
        # Tuples, as older and newer drafts write them.
        (
            an_object(a={"type": "array", "items": [TEXT, NUMBER, TEXT], "additionalItems": False}),
            an_object(a={"type": "array", "items": {"anyOf": [TEXT, NUMBER]}}),
        ),
        (
            an_object(a={"type": "array", "prefixItems": [TEXT, TEXT], "minItems": 2}),
            an_object(a={"type": "array", "minItems": 2, "items": TEXT}),
        ),
        (
            an_object(a={"type": "array", "prefixItems": [TEXT], "items": NUMBER}),
            an_object(a={"type": "array", "items": {"anyOf": [TEXT, NUMBER]}}),
        ),
        (an_object(a={"type": "array", "items": []}), an_object(a={"type": "array", "items": {}})),
        # Invalid schemas.
        (an_object(a={"type": None}, b={"type": "any"}), an_object(a={}, b={})),
        (an_object(a={"type": ["string", "file"]}), an_object(a={"type": ["string"]})),
        (an_object(a={"type": "string", "required": True}), an_object(a=TEXT)),
        (an_object(a={"type": "string", "enum": []}), an_object(a=TEXT)),
        (an_object(a={"anyOf": []}, b={"allOf": {}}), an_object(a={}, b={})),
        (an_object(a="text", b=None, c=True), an_object(a={}, b={}, c=True)),
    ],
)
def test_bad_parameters_are_made_acceptable(simulator, signed_in, ask, given, sent):
    before = json.dumps(given)
    assert parameters(simulator, signed_in, ask, given) == sent
    assert json.dumps(given) == before


def test_the_same_tool_twice_is_sent_once(simulator, signed_in, ask):
    def other() -> str:
        return "13:00"

    newer = llm.Tool(name="now", description="Newer", implementation=other)
    simulator.answer(Call("now", {}))
    tools = [now, WebSearch(), other, newer, other, WebSearch()]
    ask.chain(ask.model(), "Go", tools=tools)
    first, second = simulator.prompts
    tools_sent = [tool.get("name", tool["type"]) for tool in first["tools"]]
    assert tools_sent == ["now", "web_search", "other"]
    # llm runs the newer one.
    assert first["tools"][0]["description"] == "Newer"
    assert second["input"][-1]["output"] == "13:00"


# Random schemas --------------------------------------------------------------------------


odd_values = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({})
)
kinds = st.sampled_from([*TYPES, "any"])


def keywords(schemas):
    named = st.dictionaries(st.sampled_from("abc"), schemas, max_size=2)
    listed = st.lists(schemas, max_size=3)
    valid = {
        "type": kinds | st.lists(kinds, max_size=2),
        "properties": named,
        "$defs": named,
        "required": st.lists(st.sampled_from("abc"), unique=True),
        "additionalProperties": schemas,
        "items": schemas | listed,
        "enum": st.lists(odd_values, max_size=2),
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a", "#/$defs/missing", "x"]),
        **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), listed),
        "not": schemas,
        "const": odd_values,
        "default": odd_values,
        "title": st.just("T"),
    }
    odd = {name: values | odd_values for name, values in valid.items() if name != "$ref"}
    return st.fixed_dictionaries({}, optional=valid) | st.fixed_dictionaries({}, optional=odd)


def closed_objects(schemas):
    return st.dictionaries(st.sampled_from("abc"), schemas, max_size=2).map(lambda p: closed(**p))


any_schema = st.recursive(st.booleans() | st.just(TEXT), keywords, max_leaves=5)
near_strict = st.recursive(
    st.sampled_from([TEXT, NUMBER, {"$ref": "#"}, {"type": "array"}, {"const": 1}, {}]),
    lambda inner: (
        closed_objects(inner)
        | keywords(inner)
        | st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(lambda choices: {"anyOf": choices}, st.lists(inner, max_size=2))
    ),
    max_leaves=5,
)


FIFTY_EXAMPLES = settings(max_examples=50)


@FIFTY_EXAMPLES
@given(keywords(any_schema))
def test_repaired_parameters_are_accepted_and_not_repaired_again(schema):
    repaired = tool_parameters(schema, "f")
    assert parameters_fault(repaired) is None
    assert tool_parameters(repaired, "f") == repaired


@FIFTY_EXAMPLES
@given(closed_objects(near_strict) | near_strict)
def test_strict_mode_accepts_each_schema_that_is_called_strict(schema):
    if is_strict(schema):
        assert strict_fault(schema) is None
