"""The input of the requests that the simulator has received."""

from __future__ import annotations

import itertools

MODEL = "chatgpt-gpt-6-luna"
ADD = "def add(a: float, b: float) -> float:\n    return a + b"


def add(a: float, b: float) -> float:
    "Add two numbers"
    return a + b


def items(simulator, number=-1):
    """Return the input of the last request, or of the one with this number."""
    return simulator.prompts[number]["input"]


def kinds(simulator, number=-1):
    return [item.get("role", item["type"]) for item in items(simulator, number)]


def of_kind(simulator, kind, number=-1):
    return [item for item in items(simulator, number) if item["type"] == kind]


def texts(item):
    return [part["text"] for part in item["content"] if "text" in part]


def system_prompts(simulator):
    return ["".join(texts(i)) for i in items(simulator) if i.get("role") == "developer"]


def assert_same_beginnings(simulator, first=0):
    """The input of each request begins with the bytes of the one before."""
    requests = [request.raw for request in simulator.seen("/codex/responses")[first:]]
    inputs = [raw.partition(b',"input":')[2] for raw in requests]
    for earlier, later in itertools.pairwise(inputs):
        assert earlier
        assert later.startswith(earlier[: -len(b"]}")])
