"""The `openai` package on the official route: models, a stream, tools in both places."""

from __future__ import annotations

import openai

client = openai.OpenAI()
query = {"params": {"client_version": "999.0.0"}}
models = client.get("/models", cast_to=object, options=query)["models"]
print([model["slug"] for model in models])

TOOL = {
    "type": "function",
    "name": "multiply",
    "description": "Multiply two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}
BODY = {"model": "gpt-6-luna", "store": False, "stream": True, "instructions": "Be brief."}
QUESTION = {"role": "user", "content": 'multiply {"a": 6, "b": 7}'}
DECLARED = {"type": "additional_tools", "role": "developer", "tools": [TOOL]}

for tools, before in (([TOOL], []), ([], [DECLARED])):
    items = [*before, QUESTION]
    for _ in range(2):
        with client.responses.create(**BODY, input=items, tools=tools) as stream:
            done = [e.item for e in stream if e.type == "response.output_item.done"]
        calls = [item for item in done if item.type == "function_call"]
        for call in calls:
            replay = {n: getattr(call, n) for n in ("type", "call_id", "name", "arguments")}
            output = {"type": "function_call_output", "call_id": call.call_id}
            items += [replay, {**output, "output": "pelican-42"}]
    print(done[-1].content[0].text)
try:
    client.responses.create(**BODY, input="hi", temperature=1)
except openai.UnprocessableEntityError as error:
    print(error.status_code, error.body)
