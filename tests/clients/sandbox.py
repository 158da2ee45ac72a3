"""A network with loopback only, in which the service's host names lead to the simulator.

Unmodified programs talk to their usual addresses over TLS. They run in a network namespace with
nothing but loopback, and in a mount namespace whose /etc/hosts maps those names to 127.0.0.1, so
that no request can reach the real service (Linux only; see unshare(1)).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

HOSTS = ("auth.openai.com", "chatgpt.com", "api.openai.com")
HTTPS_PORT = 443


def enter(command: list[str], folder: pathlib.Path) -> int:
    """Run a command in these two namespaces, and return its exit code."""
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {' '.join(HOSTS)}\n")
    script = 'ip link set lo up && mount --bind "$0" /etc/hosts && exec "$@"'
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", "--net", "--mount", *user, "sh", "-c", script, str(hosts)]
    return subprocess.run([*unshare, *command], check=False).returncode


def check_sandboxed() -> None:
    """Exit if this process may be able to reach other machines."""
    try:
        # An address that RFC 5737 reserves for documentation.
        socket.create_connection(("192.0.2.1", HTTPS_PORT), timeout=1).close()
    except OSError as error:
        if error.errno == errno.ENETUNREACH:
            return
    raise SystemExit("This process can reach other machines; start tests/clients/run.py.")


class Failed(Exception):
    """A client did not do what its scenario expects."""


@dataclasses.dataclass
class Client:
    """A program to try, with its environment and the simulator that it talks to."""

    simulator: Any
    folder: pathlib.Path
    authority: pathlib.Path
    # The folder with the commands of its virtual environment, or of its npm packages.
    commands: pathlib.Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.commands}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONUNBUFFERED": "1",
            "SSL_CERT_FILE": str(self.authority),
            "REQUESTS_CA_BUNDLE": str(self.authority),
            "CODEX_CA_CERTIFICATE": str(self.authority),
        }

    def run(
        self,
        *command: str,
        on_line: Callable[[str], Any] = lambda line: None,
        seconds: float = 180.0,
        code: int = 0,
        **environment: str,
    ) -> str:
        """Run a command and return its output. Calls `on_line` with each line as it arrives.

        Raises Failed unless the command exits with `code`.
        """
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        end = threading.Timer(seconds, process.kill)
        end.start()
        printed = []
        with process:
            for line in process.stdout or ():
                printed.append(line)
                on_line(line)
        end.cancel()
        text = "".join(printed)
        if process.returncode != code:
            raise Failed(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
        return text

    def python(self, script: str, *arguments: str, **more: Any) -> str:
        """Run a script of scripts/ in the client's virtual environment, and return its output."""
        path = pathlib.Path(__file__).parent / "scripts" / script
        return self.run(str(self.commands / "python"), str(path), *arguments, **more)

    def expect(self, fact: Any, what: str) -> None:
        if not fact:
            seen = [f"{r.method} {r.path} {r.raw[:300]!r}" for r in self.simulator.requests[-6:]]
            raise Failed("\n  ".join([what, *seen]))

    def browse(self, url: str) -> None:
        """Open an address in a thread and follow its redirects, like a browser.

        Tries for a while, because some programs print the address before they listen for the
        redirect.
        """

        def follow() -> None:
            context = ssl.create_default_context(cafile=str(self.authority))
            opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
            opener.addheaders = [("User-Agent", "Mozilla/5.0")]
            for _ in range(50):
                with contextlib.suppress(urllib.error.URLError), opener.open(url, timeout=30):
                    return
                time.sleep(0.2)

        threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def service(folder: pathlib.Path) -> Iterator[tuple[Any, pathlib.Path]]:
    """Run the simulator under the service's names. Yields it and its root certificate's file."""
    import trustme

    from simulator import Simulator

    authority, bundle = trustme.CA(), folder / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    simulator = Simulator(HTTPS_PORT, tls=context)
    simulator.public_issuer = f"https://{HOSTS[0]}"
    simulator.interval = "1"
    with simulator:
        yield simulator, bundle
