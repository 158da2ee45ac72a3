"""Run the simulator with prepared answers, as the backend for benchmarks.

A model called deltas-N answers in N deltas of one HTTP chunk each, as the live service sends them.
Stores a login and prints the settings as a line of JSON.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))

from floor import TEXT

import llm_chatgpt_oauth as plugin
from llm_chatgpt.backend.endpoints import fetch_models
from llm_chatgpt.login.tokens import tokens_from_reply
from simulator import Say, Simulator, Stream

COUNTS = (1, 3, 100, 10_000, 200_000)
# Three deltas; the stream stays open for one second after its last event.
LATE = "deltas-late"


def main() -> None:
    with Simulator() as simulator:
        os.environ.update(simulator.environment)
        slugs = (*(f"deltas-{count}" for count in COUNTS), LATE)
        template = next(m for m in simulator.models if m["slug"] == "gpt-6.1-terra")
        simulator.models += [{**template, "slug": slug} for slug in slugs]
        ready = {}
        for count, slug in zip((*COUNTS, 3), slugs, strict=True):
            answer = Say(TEXT * count, deltas=[TEXT] * count)
            pieces = list(simulator.frames([answer], {"model": slug, "input": []}))
            # The server prepares chunks and sends many in one write, to need little CPU time.
            chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
            ready[slug] = [b"".join(chunks[i : i + 200]) for i in range(0, len(chunks), 200)]
        ready[LATE].append(1.0)

        def respond(request):
            slug = request.body["model"]
            if slug not in ready:
                return None
            stream = Stream(ready[slug], headers=simulator.stream_headers(simulator.account))
            stream.chunked = True
            return stream

        simulator.always["responses"] = simulator.always["official_responses"] = respond
        tokens = tokens_from_reply(simulator.sign_in(), now=time.time())
        assert tokens
        plugin.store_tokens(tokens)
        fetch_models(tokens)
        print(json.dumps(simulator.environment), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
