"""Simulate a network in front of the simulator: round trips, TCP's slow start, and TLS.

`python benchmarks/network.py PORT` relays to 127.0.0.1:PORT. It prints a line of JSON: the file of
the root certificate, and an https address for each round-trip time in milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import pathlib
import ssl
import subprocess
import sys
import tempfile
from typing import Any

ROUND_TRIPS_MS = (0, 20, 80, 200)
# The bytes that TCP sends before it waits for the other side: ten segments (RFC 6928).
INITIAL_WINDOW = 10 * 1460


class Direction:
    """One direction of a connection.

    Bytes arrive half a round trip after they were sent. They are acknowledged a round trip after
    they were sent; then twice as many may be sent.
    """

    def __init__(self, target: asyncio.StreamWriter, round_trip: float, opened_at: float):
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._round_trip = round_trip
        self._opened_at = opened_at
        self._window = INITIAL_WINDOW
        self._waiting = bytearray()
        self._ended = False

    async def carry(self, source: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                self._waiting += data
                self._send()
        self._ended = True
        self._send()

    def _send(self) -> None:
        data = bytes(self._waiting[: self._window])
        del self._waiting[: self._window]
        self._window -= len(data)
        sent_at = max(self._loop.time(), self._opened_at)
        if data:
            self._loop.call_at(sent_at + self._round_trip / 2, self._target.write, data)
            self._loop.call_at(sent_at + self._round_trip, self._acknowledged, len(data))
        if self._ended and not self._waiting:
            self._loop.call_at(sent_at + self._round_trip, self._target.close)

    def _acknowledged(self, count: int) -> None:
        self._window += 2 * count
        self._send()


async def relay(to_port: int, round_trip: float, tls: ssl.SSLContext | None = None) -> int:
    """Relay to a port of this machine. Returns the port to connect to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", to_port)
        # Opening the connection takes a round trip, during which nothing else can be sent.
        opened_at = asyncio.get_running_loop().time() + round_trip
        await asyncio.gather(
            Direction(to_server, round_trip, opened_at).carry(reader),
            Direction(writer, round_trip, opened_at).carry(from_server),
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, backlog=256)
    return server.sockets[0].getsockname()[1]


class Network:
    """Runs this file as a process, and builds environments in which programs reach the simulator
    through it.

    `environment` holds the simulator's settings and llm's folder.
    """

    def __init__(self, python: str, environment: dict[str, str]) -> None:
        self._python = python
        self._environment = environment
        self._folder = pathlib.Path(environment["LLM_USER_PATH"])
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        if self._process:
            self._process.terminate()

    @functools.cached_property
    def _relays(self) -> dict[str, Any]:
        """The line that the started process printed: its root certificate and its addresses."""
        port = self._environment["LLM_CHATGPT_ISSUER"].rpartition(":")[2]
        command = [self._python, __file__, port]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        relays = json.loads(self._process.stdout.readline())
        models = [
            {
                "model_id": f"core-{ms}",
                "model_name": "deltas-3",
                "api_base": f"{address}/v1",
                "responses": True,
            }
            for ms, address in relays["addresses"].items()
        ]
        (self._folder / "extra-openai-models.yaml").write_text(json.dumps(models))
        return relays

    def plugin(self, ms: int) -> dict[str, str]:
        """Return the environment in which the plugin's requests take round trips of `ms`."""
        return {
            **self._environment,
            "LLM_CHATGPT_BASE_URL": f"{self._relays['addresses'][str(ms)]}/backend-api",
            "CODEX_CA_CERTIFICATE": self._relays["root"],
        }

    @functools.cached_property
    def core(self) -> dict[str, str]:
        """The environment for llm's own models: core-20 has a round trip of 20 ms, and so on."""
        # SSL_CERT_FILE replaces the system's certificates, so the file has to contain them.
        trusted = self._folder / "trusted.pem"
        names = (self._relays["root"], ssl.get_default_verify_paths().openssl_cafile)
        files = [file for file in map(pathlib.Path, names) if file.exists()]
        trusted.write_bytes(b"".join(file.read_bytes() for file in files))
        return {**self._environment, "SSL_CERT_FILE": str(trusted)}


async def main(port: int) -> None:
    # Only needed where this file runs as a program.
    import trustme

    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(tls)
    root = pathlib.Path(tempfile.mkdtemp()) / "root.pem"
    authority.cert_pem.write_to_path(str(root))
    tls_port = await relay(port, 0, tls)
    ports = {ms: await relay(tls_port, ms / 1000) for ms in ROUND_TRIPS_MS}
    addresses = {ms: f"https://127.0.0.1:{port}" for ms, port in ports.items()}
    print(json.dumps({"root": str(root), "addresses": addresses}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
