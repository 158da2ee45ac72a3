"""2,000 prompts in one process with connections dropped at random: nothing grows.

.venv/bin/python tests/stress/soak.py [--full]

Half sync, half async; 200 without --full. Compares memory and open sockets at the end with those
after a warm-up of a tenth as many prompts. Warnings about resources or tasks are failures, too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

PROMPTS = 2000 if "--full" in sys.argv else 200


def sockets() -> int:
    """Count the open sockets of this process (on Linux; 0 elsewhere)."""
    folder = pathlib.Path("/proc/self/fd")
    if not folder.exists():
        return 0
    found = 0
    for entry in folder.iterdir():
        try:
            found += os.readlink(entry).startswith("socket:")
        except OSError:
            continue
    return found


def child() -> None:
    import llm

    from llm_chatgpt import config

    config.FIRST_RESEND_PAUSE_SECONDS = 0.0005
    outcomes = {"answered": 0, "cut off": 0}

    def count(text: str | None) -> None:
        outcomes["answered" if text else "cut off"] += 1

    def some_sync(number: int) -> None:
        model = llm.get_model("chatgpt-gpt-6-luna")
        for _ in range(number):
            try:
                count(model.prompt("hi").text())
            except llm.ModelError:
                count(None)

    async def some_async(number: int) -> None:
        model = llm.get_async_model("chatgpt-gpt-6-luna")

        async def one() -> None:
            try:
                count(await model.prompt("hi").text())
            except llm.ModelError:
                count(None)

        for _ in range(number // 10):
            await asyncio.gather(*(one() for _ in range(10)))

    def both(number: int) -> None:
        some_sync(number // 2)
        asyncio.run(some_async(number // 2))

    both(PROMPTS // 10)
    gc.collect()
    tracemalloc.start()
    before_memory, before_sockets = tracemalloc.get_traced_memory()[0], sockets()
    both(PROMPTS)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before_memory
    more = sockets() - before_sockets
    print(f"prompts: {outcomes}")
    print(f"memory: {grown / 1024:+.0f} KiB; open sockets: {before_sockets} {more:+d}")
    if grown > 300 * 1024 or more > 2 or not outcomes["cut off"]:
        sys.exit(1)


def main() -> int:
    import llm_chatgpt_oauth as plugin
    from llm_chatgpt.backend.endpoints import fetch_models
    from llm_chatgpt.login.tokens import tokens_from_reply
    from simulator import Answer, Simulator, Stream

    with tempfile.TemporaryDirectory() as folder, Simulator() as simulator:
        os.environ.update(simulator.environment, LLM_USER_PATH=folder)
        os.environ["LLM_CHATGPT_USAGE_NOTE"] = "0"
        tokens = tokens_from_reply(simulator.sign_in(), now=time.time())
        assert tokens
        plugin.store_tokens(tokens)
        fetch_models(tokens)
        chance = random.Random(1)

        def drop_some(request):
            """Drops some connections: before the first byte, or in the middle."""
            simulator.requests.clear()
            dice = chance.random()
            if dice < 0.1:
                return Answer(drop=True)
            if dice < 0.2:
                frames = simulator.answer_frames(request.body, simulator.account, None)
                return Stream(list(frames)[:5], end="cut")
            return None

        simulator.always["responses"] = drop_some
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "default", __file__, "--child", *sys.argv[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stderr.splitlines() if "trying again" not in line]
    # Not the deprecation warnings of llm and its libraries. "never": never awaited or retrieved.
    warned = [line for line in lines if "ResourceWarning" in line or "never" in line]
    print(done.stdout.strip())
    print(f"warnings about resources or tasks: {len(warned)}")
    for line in warned[:5]:
        print(f"    {line}")
    if done.returncode:
        print(done.stderr[-2000:])
    return 1 if done.returncode or warned else 0


if __name__ == "__main__":
    if "--child" in sys.argv:
        child()
    else:
        sys.exit(main())
