"""A company's proxy that decrypts TLS.

It answers for OpenAI's hosts with its own certificates and forwards the requests to the simulator.
"""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import socket
import ssl
import threading
from typing import Any

import trustme

from simulator import Simulator

_LONG_AGO = datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc)


class Proxy:
    """Start it with `with Proxy(simulator, folder) as proxy:`.

    `targets` lists the requests, such as "CONNECT chatgpt.com:443". `certificate` is the file of
    its root certificate. `answer` replaces the answer to CONNECT.
    """

    def __init__(self, simulator: Simulator, folder: pathlib.Path):
        self.simulator = simulator
        # The real service compares redirect addresses with this one.
        simulator.public_issuer = "https://auth.openai.com"
        self.targets: list[str] = []
        self.answer = b"HTTP/1.1 200 Connection established\r\n\r\n"
        self.certificate = folder / "company-root.pem"
        self._authority = trustme.CA(organization_name="Company Root")
        self._authority.cert_pem.write_to_path(str(self.certificate))
        self.expired = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    @property
    def environment(self) -> dict[str, str]:
        return {"HTTPS_PROXY": f"http://user:pass-Secret@127.0.0.1:{self.port}"}

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(65536)
                if not data:
                    return
                head += data
            method, target, _ = head.split(b" ", 2)
            self.targets.append(f"{method.decode()} {target.decode()}")
            connection.sendall(self.answer)
            if b" 200 " not in self.answer:
                return
            host = target.decode().rpartition(":")[0]
            past = {"not_after": _LONG_AGO} if self.expired else {}
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._authority.issue_cert(host, **past).configure_cert(context)
            with (
                context.wrap_socket(connection, server_side=True) as client,
                socket.create_connection(("127.0.0.1", self.simulator.port)) as server,
            ):
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
