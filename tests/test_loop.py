"""The async model never blocks the event loop."""

from __future__ import annotations

import asyncio
import base64
import pathlib
import secrets
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import llm
import pytest
from llm.parts import ToolResultPart

from llm_chatgpt.backend import images as images_module
from simulator import PNG, Draw, Say

PDF = b"%PDF-1.4"


class AttachmentServer:
    """Serves an image and a PDF. Waits before each response until the event loop has run."""

    def __init__(self):
        self.request_arrived = threading.Event()
        self.loop_runs = threading.Event()
        self.loop_was_blocked = False
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.request_arrived.set()
                owner.loop_was_blocked = not owner.loop_runs.wait(5)
                kind, data = ("application/pdf", PDF) if "pdf" in self.path else ("image/png", PNG)
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    with AttachmentServer() as server:
        yield server


@pytest.mark.parametrize(
    ("path", "kind", "seen"),
    [("picture.png", "image/png", "1 picture"), ("a.pdf", "application/pdf", "1 file")],
)
def test_nothing_is_fetched_on_the_loop(simulator, signed_in, server, path, kind, seen):
    async def watch():
        while not server.request_arrived.is_set():
            await asyncio.sleep(0.01)
        server.loop_runs.set()

    async def run():
        watcher = asyncio.create_task(watch())
        attachment = llm.Attachment(type=kind, url=f"{server.url}/{path}")
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        text = await model.prompt("Look", attachments=[attachment]).text()
        await watcher
        return text

    assert f"(with {seen})" in asyncio.run(run())
    assert not server.loop_was_blocked


def test_no_image_is_decoded_or_saved_on_the_loop(simulator, signed_in, monkeypatch):
    loop_runs, saving = threading.Event(), threading.Event()
    write_new = images_module.write_new

    def write(path, content):
        saving.set()
        assert loop_runs.wait(5), "the loop stood still"
        write_new(path, content)

    async def watch():
        while not saving.is_set():
            await asyncio.sleep(0.01)
        loop_runs.set()

    async def run():
        watcher = asyncio.create_task(watch())
        response = llm.get_async_model("chatgpt-gpt-6-luna").prompt("Draw")
        await response.text()
        await watcher
        return response

    image = PNG + secrets.token_bytes(3_000_000)
    simulator.answer(Draw("A pelican", image=image), Say("Here."))
    monkeypatch.setattr(images_module, "write_new", write)
    response = asyncio.run(run())
    (result,) = [part for part in parts_of(response) if isinstance(part, ToolResultPart)]
    assert pathlib.Path(result.output).read_bytes() == image


def test_a_large_image_is_decoded_in_slices(monkeypatch):
    """Decoding blocks all other threads, so the event loop's thread must run between slices."""
    decode, lengths = base64.b64decode, []

    def record(part, **options):
        lengths.append(len(part))
        return decode(part, **options)

    monkeypatch.setattr(base64, "b64decode", record)
    image = secrets.token_bytes(3_000_001)
    assert images_module.decode_image(base64.b64encode(image).decode()) == image
    assert max(lengths) <= 2**20


def test_the_path_of_an_image_saved_in_a_thread_is_printed(simulator, signed_in, run_llm):
    image = PNG + secrets.token_bytes(300_000)
    simulator.answer(Draw("A pelican", image=image), Say("Here."))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "Draw", "--async", "-R")
    path = result.stderr.removeprefix("Picture: ").strip()
    assert pathlib.Path(path).read_bytes() == image


def parts_of(response):
    return [part for message in response._messages_now() for part in message.parts]


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_a_file_is_named_after_its_url(simulator, signed_in, run_llm, server, options):
    server.loop_runs.set()
    url = f"{server.url}/a%20report.pdf?page=1"
    run_llm("-m", "chatgpt-gpt-6-luna", "Read", "-a", url, *options)
    data = base64.b64encode(PDF).decode()
    assert simulator.prompts[0]["input"][0]["content"][1] == {
        "type": "input_file",
        "filename": "a report.pdf",
        "file_data": f"data:application/pdf;base64,{data}",
    }
    run_llm("-c", "And?", *options)
    assert simulator.prompts[1]["input"][0] == simulator.prompts[0]["input"][0]


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_a_missing_image_causes_one_warning(simulator, signed_in, run_llm, tmp_path, options):
    """Also if the request is built in a thread, where click knows of no command."""
    image = tmp_path / "p2.png"
    image.write_bytes(PNG)
    run_llm("-m", "chatgpt-gpt-6-luna", "Look", "-a", str(image), "-R")
    image.unlink()
    result = run_llm("-c", "And now?", "-R", *options)
    assert result.stderr.count("attachment p2.png no longer exists") == 1
