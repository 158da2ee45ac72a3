"""litellm with a Codex login: chat completions, a stream, a tool turn, responses."""

from __future__ import annotations

import json

import litellm

MODEL = "chatgpt/gpt-6-luna"
TOOL = {
    "type": "function",
    "function": {
        "name": "multiply",
        "description": "Multiply two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


system = {"role": "system", "content": "Be brief."}
reply = litellm.completion(model=MODEL, messages=[system, user("Say hello")])
print(reply.choices[0].message.content, reply.usage)
stream = litellm.completion(model=MODEL, messages=[user("Say hello slowly")], stream=True)
print([chunk.choices[0].delta.content for chunk in stream])
messages = [user('multiply {"a": 6, "b": 7}')]
reply = litellm.completion(model=MODEL, messages=messages, tools=[TOOL])
call = reply.choices[0].message.tool_calls[0]
numbers = json.loads(call.function.arguments)
output = f"pelican-{numbers['a'] * numbers['b']}"
messages += [
    reply.choices[0].message.model_dump(),
    {"role": "tool", "tool_call_id": call.id, "content": output},
]
reply = litellm.completion(model=MODEL, messages=messages, tools=[TOOL])
print(reply.choices[0].message.content)
print(litellm.responses(model=MODEL, input="Say hello").output[-1].content[0].text)
