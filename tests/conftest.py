"""Fixtures and helpers. Each test has its own llm folder and simulator; other hosts are blocked."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import filelock
import hypothesis
import llm
import pytest
import sqlite_utils
from click.testing import CliRunner, Result
from llm.cli import cli
from llm.migrations import migrate

import llm_chatgpt_oauth as plugin
from llm_chatgpt import clients, config
from llm_chatgpt.backend.endpoints import fetch_models
from llm_chatgpt.commands import terminal as users_terminal
from llm_chatgpt.login import login_file
from llm_chatgpt.login.store import Store
from llm_chatgpt.login.tokens import parse_jwt_claims, tokens_from_reply
from simulator import Account, Answer, Simulator, Stream

BOB = Account(email="bob@example.com", account_id="acc-bob", user_id="user-bob", plan="pro")
EVE = Account(email="eve@example.com", account_id="acc-eve", user_id="user-eve", plan="business")
PERSONAL_TOKEN = "at-3vqkxPoNotShown"

# A shell makes background programs ignore Ctrl-C, and the programs that they start inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup does the same with SIGHUP.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--http", choices=["httpx", "httpx2"], help="the HTTP library to test with")


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Build a test id: the status and error of an Answer, or the error code of a Stream."""
    if isinstance(val, Stream) and isinstance(val.pieces, list):
        code = re.search(
            rb'"code": "(\w+)"', b"".join(p for p in val.pieces if isinstance(p, bytes))
        )
        return f"stream {code[1].decode()}" if code else None
    if not isinstance(val, Answer):
        return None
    error = val.body
    while isinstance(error, dict):
        names = ("error", "detail", "code", "type", "message")
        error = next((error[name] for name in names if error.get(name)), None)
    words = error[:40] if isinstance(error, str) else ""
    return "dropped" if val.drop else f"{val.status} {words}".strip()


@pytest.fixture(autouse=True)
def chosen_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the plugin use the library of `--http` instead of the one that llm has loaded."""
    name = request.config.getoption("--http")
    if name:
        module = importlib.import_module(name)
        monkeypatch.setattr(clients, "library", lambda: module)


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide this machine's settings from the test, and fail it if it connects beyond loopback."""
    for name in list(os.environ):
        if name.startswith(("LLM_", "OPENAI_", "CODEX_", "SSL_CERT_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    # The developer may be signed in to Codex CLI.
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "no-codex"))
    # A test without the simulator reaches a closed port instead of OpenAI.
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "http://127.0.0.1:9")
    monkeypatch.setenv("LLM_CHATGPT_BASE_URL", "http://127.0.0.1:9/backend-api")
    monkeypatch.setenv("LLM_CHATGPT_API_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent / "light"))
    connect = socket.socket.connect

    def only_loopback(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None):
            assert address[0] in ("127.0.0.1", "::1", "localhost"), f"a test called {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
    yield
    clients.close_clients()
    wait_for_models()


def wait_for_models() -> None:
    """Wait for the thread that fetches a changed list of models, if there is one."""
    for thread in threading.enumerate():
        if thread.name == "chatgpt-models":
            thread.join(20)


class Clock:
    """The plugin's clock, which a test can set: `shift` seconds ahead of the right time."""

    def __init__(self) -> None:
        self.right_time = time.time
        self.shift = 0.0

    def __call__(self) -> float:
        return self.right_time() + self.shift


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def callback_ports() -> Iterator[None]:
    """Lock the fixed ports of the browser login, so that one test at a time listens there."""
    with filelock.FileLock(pathlib.Path(tempfile.gettempdir()) / "llm-chatgpt-callback.lock"):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests that need the ports in one worker, so that no other worker waits for them."""
    for item in items:
        if "callback_ports" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("callback-ports"))


_used_ports: set[int] = set()


def new_simulator() -> Simulator:
    """Create a simulator on a port that no earlier one had.

    The plugin remembers a service's refusals under its address, for the rest of the process.
    """
    simulator = Simulator()
    while simulator.port in _used_ports:
        simulator.close()
        simulator = Simulator()
    _used_ports.add(simulator.port)
    return simulator


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat failed requests almost at once."""
    monkeypatch.setattr(config, "FIRST_RESEND_PAUSE_SECONDS", 0.001)


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with new_simulator() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def signed_in(simulator: Simulator) -> plugin.Tokens:
    """A stored login, as a device login leaves it."""
    return sign_in(simulator)


@pytest.fixture
def headers(simulator: Simulator) -> dict[str, str | None]:
    """The headers of a signed-in client that is not this plugin."""
    return {
        "Authorization": f"Bearer {simulator.sign_in()['access_token']}",
        "ChatGPT-Account-ID": simulator.account.account_id,
        "User-Agent": "another-client/1.0",
        "session-id": "a-session",
    }


@pytest.fixture
def two_logins(simulator: Simulator) -> tuple[plugin.Tokens, plugin.Tokens]:
    """Two stored logins: Ada's is the default account, Bob's is `work`."""
    ada = sign_in(simulator)
    bob = new_login(simulator, BOB)
    plugin.store_tokens(bob, "work")
    return ada, bob


@pytest.fixture
def personal_token(simulator: Simulator) -> str:
    """Eve's access token."""
    simulator.personal_tokens[PERSONAL_TOKEN] = EVE
    return PERSONAL_TOKEN


def new_login(simulator: Simulator, user: Account | None = None, **changes: Any) -> plugin.Tokens:
    """Create a login as a device login does, without storing it."""
    owner = plugin.Tokens("", issuer=simulator.issuer)
    tokens = tokens_from_reply(simulator.sign_in(user), old=owner, now=time.time())
    assert tokens is not None
    return tokens._replace(**changes)


def sign_in(simulator: Simulator, account: str | None = None, **changes: Any) -> plugin.Tokens:
    tokens = new_login(simulator, **changes)
    plugin.store_tokens(tokens, account)
    return tokens


def sign_in_officially(
    simulator: Simulator, account: str | None = None, ago: float = 0.0, **changes: Any
) -> plugin.Tokens:
    """Store a login of the official route that is `ago` seconds old."""
    reply = simulator.sign_in_officially(ago=ago)
    tokens = tokens_from_reply(reply, now=time.time() - ago)
    claims = parse_jwt_claims(reply["id_token"])
    assert tokens is not None
    assert claims is not None
    client_id = claims["aud"][0]
    tokens = tokens._replace(
        kind="official", issuer=claims["iss"], client_id=client_id, subject=claims["sub"]
    )
    tokens = tokens._replace(**changes)
    plugin.store_tokens(tokens, account)
    return tokens


def expire(seconds_left: float = -60.0) -> plugin.Tokens:
    """Make the stored login expire in `seconds_left` seconds."""
    tokens = plugin.load_tokens()
    assert tokens is not None
    tokens = tokens._replace(expires_at=time.time() + seconds_left)
    plugin.store_tokens(tokens)
    return tokens


def entry_on_disk(account: str = "default") -> Any:
    """Read an account's entry from the file itself, not a renewed login that is still unsaved."""
    return json.loads(login_file.store_path().read_text())["accounts"].get(account)


def edit_login(account: str = "default", **fields: Any) -> None:
    """Change the fields of an account in the login file and leave the rest of it alone."""
    path = login_file.store_path()
    data = json.loads(path.read_text())
    data["accounts"][account].update(fields)
    path.write_text(json.dumps(data))


def store_key(name: str, value: str) -> None:
    """Store a key in llm's keys.json."""
    path = llm.user_dir() / "keys.json"
    keys = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**keys, name: value}))


def bearers(simulator: Simulator) -> list[str]:
    """Return the access token of each prompt."""
    requests = [*simulator.seen("/codex/responses"), *simulator.seen("/v1/responses")]
    return [request.headers["authorization"].removeprefix("Bearer ") for request in requests]


def device_login(simulator: Simulator, run_llm: Callable[..., Result], *arguments: str) -> None:
    """Sign in with the command; the user approves at once."""
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login", *arguments).exit_code == 0


def kinds(items: list[dict[str, Any]]) -> list[str]:
    """Return the role of each message, and the type of each other item, of a request's input."""
    return [item.get("role", item["type"]) for item in items]


def add_blind_model(simulator: Simulator, tokens: plugin.Tokens) -> None:
    """Offer `gpt-blind`, which takes no images, and fetch the list of models."""
    blind = {**simulator.models[4], "slug": "gpt-blind", "input_modalities": ["text"]}
    simulator.models = [*simulator.models, blind]
    fetch_models(tokens)


def multiply(a: int, b: int) -> int:
    """Multiply two numbers"""
    return a * b


@dataclasses.dataclass
class Answered:
    """A finished response, the same for both kinds of model."""

    response: Any
    text: str
    events: list[Any]

    @property
    def messages(self) -> list[Any]:
        return self.response._messages_now()

    @property
    def parts(self) -> list[Any]:
        return [part for message in self.messages for part in message.parts]

    @property
    def json(self) -> dict[str, Any]:
        return self.response.response_json

    @property
    def reasoning(self) -> str:
        return "".join(event.chunk for event in self.events if event.type == "reasoning")


class Asker:
    """Sends prompts through llm's Python API, to the sync or the async model."""

    def __init__(self, kind: str):
        self.kind = kind

    def model(self, slug: str = "gpt-6-luna") -> Any:
        get = llm.get_async_model if self.kind == "async" else llm.get_model
        return get(f"chatgpt-{slug}")

    def finish(self, start: Callable[[], Any]) -> Answered:
        if self.kind == "sync":
            response = start()
            events = list(response.stream_events())
        else:

            async def collect() -> tuple[Any, list[Any]]:
                response = start()
                return response, [event async for event in response.astream_events()]

            response, events = asyncio.run(collect())
        text = "".join(event.chunk for event in events if event.type == "text")
        return Answered(response, text, events)

    def __call__(self, *args: Any, slug: str = "gpt-6-luna", **kwargs: Any) -> Answered:
        model = self.model(slug)
        return self.finish(lambda: model.prompt(*args, **kwargs))

    def chain(self, owner: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Run a tool chain to its end and return its responses in order."""
        if self.kind == "sync":
            chain = owner.chain(*args, **kwargs)
            chain.text()
        else:

            async def run() -> Any:
                running = owner.chain(*args, **kwargs)
                await running.text()
                return running

            chain = asyncio.run(run())
        return list(chain._responses)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Asker:
    return Asker(request.param)


@functools.cache
def empty_logs() -> bytes:
    """Return an empty logs.db. Cached, because creating one takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "logs.db"
        database = sqlite_utils.Database(path)
        migrate(database)
        database.close()
        return path.read_bytes()


def make_logs() -> None:
    """Create llm's database, as an earlier prompt would have done."""
    path = llm.user_dir() / "logs.db"
    if not path.exists():
        path.write_bytes(empty_logs())


def logged(run_llm: Callable[..., Result], number: int = 1) -> list[dict[str, Any]]:
    """Return the last `number` entries of llm's logs, oldest first."""
    return json.loads(run_llm("logs", "-n", str(number), "--json").stdout)


@pytest.fixture
def run_llm() -> Callable[..., Result]:
    """Run `llm ...` in this process, with separate stdout and stderr."""

    def run(*args: str, **kwargs: Any) -> Result:
        if args[0] != "chatgpt":
            make_logs()
        result = CliRunner().invoke(cli, list(args), **kwargs)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(url: str, redirects: bool = True) -> tuple[int, Any, str]:
    """Open an address as a browser does; return status, headers and body."""
    opener = urllib.request.build_opener(*([] if redirects else [_NoRedirect]))
    # Cloudflare, in front of the issuer, refuses urllib's own User-Agent.
    opener.addheaders = [("User-Agent", "Mozilla/5.0")]
    try:
        with opener.open(url, timeout=20) as reply:
            return reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


class Browser:
    """The browser that a login opens: `visit` is what it does with an address."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.pages: list[tuple[int, Any, str]] = []
        self.threads: list[threading.Thread] = []
        self.visit: Callable[[str], Any] = lambda url: self.pages.append(fetch(url))

    def open(self, url: str) -> bool:
        self.urls.append(url)
        self.threads.append(threading.Thread(target=self.visit, args=(url,)))
        self.threads[-1].start()
        return True


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    browser = Browser()
    monkeypatch.setattr(users_terminal, "open_address", browser.open)
    # A test whose browser does not come back fails soon.
    monkeypatch.setattr(config, "BROWSER_LOGIN_SECONDS", 20)
    yield browser
    for thread in browser.threads:
        thread.join()


@pytest.fixture
def official_login(
    simulator: Simulator, browser: Browser, run_llm: Callable[..., Result]
) -> Callable[..., Result]:
    """`llm chatgpt login --official`; its output shows no token, no code and no traceback."""

    def run(*arguments: str) -> Result:
        result = run_llm("chatgpt", "login", "--official", *arguments)
        for thread in browser.threads:
            thread.join()
        assert_no_secrets(simulator, result.output + str(browser.pages))
        assert not re.search(r"ac_[0-9a-f]{8}|Traceback", result.output + str(browser.pages))
        return result

    return run


def authorize_queries(simulator: Simulator) -> list[dict[str, str]]:
    """The queries of all requests to the official route's authorize endpoint."""
    return [request.query for request in simulator.seen("/api/accounts/authorize")]


def exchanges(simulator: Simulator) -> list[Any]:
    """The bodies of all requests to the official route's token endpoint."""
    return [request.body for request in simulator.seen("/api/accounts/oauth/token")]


def redirect_of(url: str) -> str:
    """Open the authorize address; return the address that the issuer redirects to."""
    status, headers, body = fetch(url, redirects=False)
    assert status == 302, body
    return str(headers["Location"])


def with_query(url: str, **changes: Any) -> str:
    """Replace parameters of an address; a list repeats one, None removes it."""
    parts = urllib.parse.urlsplit(url)
    query = {**dict(urllib.parse.parse_qsl(parts.query)), **changes}
    pairs = {k: v for k, v in query.items() if v is not None}
    return parts._replace(query=urllib.parse.urlencode(pairs, doseq=True)).geturl()


# Code for a program that a test starts: prints a line when it begins to wait for the lock.
TELL_WAITING = """
import filelock, sys
acquire = filelock.FileLock.acquire

def tell(lock, *args, **kwargs):
    print("waiting for the lock", file=sys.stderr, flush=True)
    return acquire(lock, *args, **kwargs)

filelock.FileLock.acquire = tell
"""


@pytest.fixture
def lock_wanted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Event that is set when a thread begins to wait for the lock of the login file."""
    event, acquire = threading.Event(), filelock.FileLock.acquire

    def tell(lock: Any, *args: Any, **kwargs: Any) -> Any:
        event.set()
        return acquire(lock, *args, **kwargs)

    monkeypatch.setattr(filelock.FileLock, "acquire", tell)
    return event


@pytest.fixture
def change_during_the_wait(lock_wanted: threading.Event) -> Callable[..., Any]:
    """Call a function that waits for the lock of the login file, and change the file meanwhile.

    Returns what the function returns.
    """

    def run(function: Callable[[], Any], change: Callable[[Store], Store]) -> Any:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with login_file.locked_store() as writer:
                lock_wanted.clear()
                result = pool.submit(function)
                assert lock_wanted.wait(20)
                writer.save(change(login_file.read_store()))
            return result.result(20)

    return run


def start_llm(*args: str, **kwargs: Any) -> subprocess.Popen[str]:
    """Start the real `llm` in its own process."""
    if args[0] != "chatgpt":
        make_logs()
    return subprocess.Popen(
        [sys.executable, "-m", "llm", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


class PipedLogin:
    """`llm chatgpt login` with pipes, up to the address that it prints."""

    def __init__(self, *arguments: str, **options: Any):
        self.process = start_llm("chatgpt", "login", *arguments, **options)
        self.printed = ""
        while "Waiting for the browser" not in self.printed:
            line = self.process.stderr.readline()
            assert line, self.printed
            self.printed += line
        self.url = re.search(r"^  (http\S+)$", self.printed, re.MULTILINE)[1]

    def visit(self, url: str = "") -> tuple[int, str, str]:
        """Open the address, or another one, as a browser does; return what `end` returns."""
        assert fetch(url or self.url)[0] == 200
        return self.end()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit code, stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stdout, self.printed + stderr


@pytest.fixture
def start_login() -> Iterator[Callable[..., PipedLogin]]:
    """`start_login(*arguments)` runs `llm chatgpt login` with pipes; it ends with the test."""
    started: list[PipedLogin] = []

    def run(*arguments: str, **options: Any) -> PipedLogin:
        started.append(PipedLogin(*arguments, **options))
        return started[-1]

    yield run
    for login in started:
        login.process.kill()
        login.process.wait()


@pytest.fixture
def start_in_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`start_in_terminal(*arguments)` runs `llm` in a terminal, which ends with the test."""
    from terminal import Terminal

    for name in ("SSH_CONNECTION", "SSH_TTY", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    started: list[Terminal] = []

    def run(*arguments: str, **options: Any) -> Terminal:
        started.append(Terminal(*arguments, **options))
        return started[-1]

    yield run
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()


def press_ctrl_c(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Interrupt a program that waits, and return its stdout and stderr.

    A signal right before a sleep does not interrupt the sleep, so the signal is sent again,
    as a user would press Ctrl-C again.
    """
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=6)
    raise AssertionError("Ctrl-C did not end the program")


def prompt_in_five_processes() -> None:
    """Send prompts from five programs at once, and check that each gets its own answer."""
    processes = [start_llm("-m", "chatgpt-gpt-6-luna", f"number {n}", "--no-log") for n in range(5)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, outputs
    assert sorted(out.split()[-1] for out, _ in outputs) == sorted(str(n) for n in range(5))


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until the condition holds, checking it often."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def assert_no_secrets(simulator: Simulator, text: str) -> None:
    """Fail if a text contains a token of the simulator."""
    for tokens in (
        simulator.access_tokens,
        simulator.refresh_tokens,
        simulator.official_access_tokens,
        simulator.official_refresh_tokens,
    ):
        assert not any(token in text for token in tokens)
    assert not re.search(r"\brt_[0-9a-f]{8}", text)
    # Only at the start of a word, because the random `state` in an address may contain "eyJ".
    assert not re.search(r"(?<![\w-])eyJ", text)
