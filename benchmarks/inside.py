"""Measure within one process; print the result as a line of JSON at the end. See run.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import pathlib
import socket
import statistics
import sys
import threading
import time
import tracemalloc

PNG = b"\x89PNG\r\n\x1a\n"


def best(action, repeats: int = 5) -> float:
    """Return the smallest CPU time of several runs, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append((time.process_time() - start) * 1000)
    return min(times)


def measure_import() -> dict:
    os.environ["LLM_LOAD_PLUGINS"] = ""
    import llm.cli  # noqa: F401

    start = time.process_time()
    import llm_chatgpt_oauth as plugin

    middle = time.process_time()
    plugin.register_models(lambda model, async_model: None)
    end = time.process_time()
    return {"import_ms": (middle - start) * 1000, "register_ms": (end - middle) * 1000}


def measure_tls(kind: str) -> dict:
    """Measure the CPU time of a process's first TLS connection, and of later ones."""
    import ssl

    import trustme
    import truststore

    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(server_context)
    with authority.cert_pem.tempfile() as root:
        os.environ["CODEX_CA_CERTIFICATE"] = root
        from llm_chatgpt.certificates import tls_context

        def truststore_context():
            context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(root)
            return context

        start = time.process_time()
        context = tls_context() if kind == "plugin" else truststore_context()
        shake_hands(context, server_context)
        first = (time.process_time() - start) * 1000
        return {"first_ms": first, "next_ms": best(lambda: shake_hands(context, server_context))}


def shake_hands(client_context, server_context) -> None:
    import ssl

    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_context.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)


class Counter:
    """Counts the connections that this process opens."""

    def __init__(self) -> None:
        self.opened = 0
        connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

        def count(original):
            def counted(this, address):
                self.opened += 1
                return original(this, address)

            return counted

        socket.socket.connect = count(connect)
        socket.socket.connect_ex = count(connect_ex)


def measure_connections(kind: str) -> dict:
    import llm

    counter = Counter()
    requests = 12
    if kind == "sync":
        model = llm.get_model("chatgpt-deltas-3")
        for _ in range(requests):
            model.prompt("hi").text()
    elif kind == "threads":
        model = llm.get_model("chatgpt-deltas-3")

        def send_prompts():
            for _ in range(requests):
                model.prompt("hi").text()

        threads = [threading.Thread(target=send_prompts) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        requests *= 8
    else:
        rounds, at_once = (1, 100) if kind == "hundred" else (requests, 1)

        async def run():
            model = llm.get_async_model("chatgpt-deltas-3")
            for _ in range(rounds):
                await asyncio.gather(*(model.prompt("hi").text() for _ in range(at_once)))

        asyncio.run(run())
        requests = rounds * at_once
    return {"connections": counter.opened, "requests": requests}


def measure_first_token(kib: str) -> dict:
    """Measure the time from the read of the first text's bytes until the model yields the text.

    A time from the moment of sending would mostly show how soon the system wakes the reader.
    """
    import llm

    delta = b'data: {"type":"response.output_text.delta","output_index":0,"delta":"hello"}\n\n'
    filler = b'data: {"type":"response.in_progress","x":"' + b"y" * 900 + b'"}\n\n'
    # The chunk begins with the delta; the filler brings it to the wanted size.
    rest = filler * max(0, (int(kib) * 1024 - len(delta)) // len(filler))
    end = b'data: {"type":"response.completed","response":{"model":"gpt-6-luna"}}\n\n'
    listener = socket.create_server(("127.0.0.1", 0))
    arrived_at = 0.0
    receive = socket.socket.recv

    def timed(this, *arguments):
        nonlocal arrived_at
        data = receive(this, *arguments)
        if b"output_text.delta" in data:
            arrived_at = time.perf_counter()
        return data

    socket.socket.recv = timed

    def serve():
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream = connection.makefile("rb")
                while True:
                    length = 0
                    while (line := stream.readline()) not in (b"\r\n", b""):
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    if not line:
                        break
                    stream.read(length)
                    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    connection.sendall(head)
                    time.sleep(0.02)
                    chunk = delta + rest
                    data = b"%x\r\n%s\r\n" % (len(chunk), chunk)
                    connection.sendall(data)
                    connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))

    server = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    server.start()
    os.environ["LLM_CHATGPT_BASE_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
    model = llm.get_model("chatgpt-gpt-6-luna")
    delays = []
    for _ in range(60):
        for event in model.prompt("hi").stream_events():
            if event.type == "text":
                delays.append((time.perf_counter() - arrived_at) * 1000)
    return {"median_ms": statistics.median(delays[10:])}


def request_builder(prompt, model):
    import llm

    import llm_chatgpt_oauth as plugin
    from llm_chatgpt.backend.prompt_run import PromptRun

    response = llm.Response(prompt, model, stream=True)
    run = PromptRun(model, prompt, response, None, None)
    tokens = plugin.load_tokens()
    return lambda: run.request(tokens)


def measure_image() -> dict:
    import llm

    size = 10_000_000
    image = PNG + os.urandom(size)
    model = llm.get_model("chatgpt-gpt-6-luna")
    attachment = llm.Attachment(type="image/png", content=image)
    # The first prompt imports modules, which should not count.
    model.prompt("warm").text()
    tracemalloc.start()
    model.prompt("What?", attachments=[attachment]).text()
    _, peak = tracemalloc.get_traced_memory()
    return {"ratio": peak / size}


def measure_history(items: str) -> dict:
    import llm
    from llm.models import Prompt

    messages = []
    for number in range(int(items) // 2):
        messages.append(llm.user(f"Question {number}, with some words around it"))
        messages.append(llm.assistant(f"Answer {number}, with some words around it too"))
    model = llm.get_model("chatgpt-gpt-6-luna")
    build = request_builder(Prompt(None, model, messages=messages), model)
    build()
    return {"ms": best(build, 20)}


def measure_deltas(count: str) -> dict:
    import llm

    model = llm.get_model(f"chatgpt-deltas-{count}")
    model.prompt("warm").text()
    return {"ms": best(lambda: model.prompt("hi").text(), 3)}


def measure_at_once(count: str) -> dict:
    import llm

    async def run():
        model = llm.get_async_model("chatgpt-deltas-100")
        await model.prompt("warm").text()
        start = time.process_time()
        await asyncio.gather(*(model.prompt("hi").text() for _ in range(int(count))))
        return (time.process_time() - start) * 1000

    return {"ms": min(asyncio.run(run()) for _ in range(3))}


def measure_long_prompt(model_id: str, size: str) -> dict:
    """Measure the time to the first text of a long prompt on a new connection (median of ten)."""
    import llm

    from llm_chatgpt.clients import close_clients

    docs = sorted(pathlib.Path(__file__).parent.parent.glob("docs/*.md"))
    text = "".join(path.read_text() for path in docs)[: int(size)]
    model = llm.get_model(model_id)
    times = []
    for _ in range(11):
        close_clients()
        start = time.perf_counter()
        next(iter(model.prompt(text)))
        times.append((time.perf_counter() - start) * 1000)
    # The first prompt imports the HTTP library.
    return {"ms": statistics.median(times[1:])}


def measure_stall(model_id: str, count: str) -> dict:
    """Send many async prompts at once in a new process.

    `stall_ms` is the longest time for which one task blocked the loop. It is CPU time, because on a
    busy machine the loop also waits for other processes.
    """
    import llm

    longest = 0.0

    async def watch():
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)

    async def run():
        watcher = asyncio.create_task(watch())
        model = llm.get_async_model(model_id)
        start = time.perf_counter()
        await asyncio.gather(*(model.prompt("hi").text() for _ in range(int(count))))
        watcher.cancel()
        return (time.perf_counter() - start) * 1000

    return {"ms": asyncio.run(run()), "stall_ms": longest * 1000}


if __name__ == "__main__":
    print(json.dumps(globals()[f"measure_{sys.argv[1]}"](*sys.argv[2:])))
