"""Run `llm` with a model that answers from memory, to measure the cost of llm itself.

The environment variable DELTAS is the number of deltas in the answer.
"""

from __future__ import annotations

import os

import llm
from llm.cli import cli
from llm.parts import StreamEvent
from llm.plugins import pm

DELTAS = int(os.environ.get("DELTAS", "3"))
TEXT = "word and "


def pieces():
    for _ in range(DELTAS):
        yield StreamEvent(type="text", chunk=TEXT)


class Floor(llm.Model):
    model_id = "floor"
    can_stream = True

    def execute(self, prompt, stream, response, conversation):
        yield from pieces()
        response.set_usage(input=1, output=DELTAS)


class AsyncFloor(llm.AsyncModel):
    model_id = "floor"
    can_stream = True

    async def execute(self, prompt, stream, response, conversation):
        for event in pieces():
            yield event
        response.set_usage(input=1, output=DELTAS)


class Plugin:
    @llm.hookimpl
    def register_models(self, register):
        register(Floor(), AsyncFloor())


if __name__ == "__main__":
    pm.register(Plugin())
    cli()
