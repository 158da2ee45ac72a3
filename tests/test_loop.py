"""The async model never blocks the event loop."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import llm
import pytest

from simulator import PNG


class PictureServer:
    """Serves a picture, but only after the event loop has moved on."""

    def __init__(self):
        self.asked = threading.Event()
        self.loop_runs = threading.Event()
        self.waited_in_vain = False
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.asked.set()
                owner.waited_in_vain = not owner.loop_runs.wait(5)
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.send_header("Content-Length", str(len(PNG)))
                self.end_headers()
                self.wfile.write(PNG)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/picture.png"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def pictures():
    with PictureServer() as server:
        yield server


def test_a_picture_is_not_fetched_on_the_loop(simulator, signed_in, pictures):
    async def watch():
        while not pictures.asked.is_set():
            await asyncio.sleep(0.01)
        pictures.loop_runs.set()

    async def run():
        watcher = asyncio.create_task(watch())
        attachment = llm.Attachment(type="image/png", url=pictures.url)
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        text = await model.prompt("Look", attachments=[attachment]).text()
        await watcher
        return text

    assert "(with 1 picture)" in asyncio.run(run())
    assert not pictures.waited_in_vain


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_a_missing_picture_is_told_on_the_terminal(
    simulator, signed_in, run_llm, tmp_path, options
):
    """Also where the request is built in a thread, which has no terminal."""
    picture = tmp_path / "p2.png"
    picture.write_bytes(PNG)
    run_llm("-m", "chatgpt-gpt-6-luna", "Look", "-a", str(picture), "-R")
    picture.unlink()
    result = run_llm("-c", "And now?", "-R", *options)
    assert result.stderr.count("attachment p2.png no longer exists") == 1
