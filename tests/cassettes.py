"""Recordings for tests that need no simulator: scrubbing, scenarios, and the recorder.

.venv/bin/python tests/cassettes.py                   record all from the simulator
.venv/bin/python tests/cassettes.py --real NAME ...   record these from OpenAI, with the login in
                                                      LLM_USER_PATH

Either way, the cassettes have OpenAI's addresses, and tokens, codes, ids and emails are replaced
before anything is written.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import llm
import vcr

import llm_chatgpt_oauth as plugin
from conftest import new_login, redirect_of, wait_for_models
from llm_chatgpt import clients, config
from llm_chatgpt.backend.endpoints import fetch_models
from llm_chatgpt.live.scrub import Scrubber
from llm_chatgpt.login.tokens import parse_jwt_claims
from simulator import Answer, Call, Say, Simulator, Think, usage_limit

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "cassettes"

# Scrubbing ----------------------------------------------------------------------------


# Replacements for an email, and for a client id of the official route.
EXAMPLE_EMAIL = "ada@example.com"
SCRUBBED_CLIENT_ID = "oaiapp_scrubbed"


class CassetteScrubber(Scrubber):
    """Scrubber for vcrpy. A login can read the tokens, emails and client ids that it writes."""

    def replacement(self, field: str, secret: str) -> str:
        if secret.startswith("eyJ"):
            return self.jwt(secret)
        if "@" in secret:
            return EXAMPLE_EMAIL
        if secret.startswith("oaiapp_"):
            return SCRUBBED_CLIENT_ID
        return super().replacement(field, secret)

    def jwt(self, token: str) -> str:
        """Scrub a token's claims. Its signature and the user's name are removed."""
        if token.endswith(".scrubbed"):
            return token
        claims = {k: v for k, v in (parse_jwt_claims(token) or {}).items() if k != "name"}
        payload = base64.urlsafe_b64encode(self.text(json.dumps(claims)).encode())
        return f"eyJhbGciOiJub25lIn0.{payload.rstrip(b'=').decode()}.scrubbed"

    def request(self, request: Any) -> Any:
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        # The port of the redirect address differs each time.
        body = re.sub(rb"127\.0\.0\.1%3A\d+", b"127.0.0.1%3A1", body)
        request.body = self.body(body, request.headers.get("content-type", ""))
        request.headers = self.headers(request.headers)
        return request

    def response(self, response: dict[str, Any]) -> dict[str, Any]:
        single = {name: values[0] for name, values in response["headers"].items()}
        harmless = self.headers(single)
        response["headers"] = {n: v for n, v in response["headers"].items() if n in harmless}
        response["body"]["string"] = self.body(response["body"]["string"])
        return response


def _same_body(sent: Any, recorded: Any) -> None:
    def value(body: bytes | str | None) -> Any:
        text = (body or b"").decode() if isinstance(body, bytes) else (body or "")
        try:
            return json.loads(text)
        except ValueError:
            return text

    assert value(sent.body) == value(recorded.body)


@contextlib.contextmanager
def opened_cassette(path: pathlib.Path, record_mode: str = "none") -> Iterator[Any]:
    """Open a cassette. Requests are matched on method, address and body."""
    scrubber = CassetteScrubber()
    recorder = vcr.VCR(
        record_mode=record_mode,
        match_on=["method", "scheme", "host", "port", "path", "query", "body"],
        before_record_request=scrubber.request,
        before_record_response=scrubber.response,
        decode_compressed_response=True,
    )
    recorder.register_matcher("body", _same_body)
    with recorder.use_cassette(str(path)) as played:
        yield played
        wait_for_models()


def cassette(name: str, record_mode: str = "none") -> Any:
    """Open the cassette of a scenario."""
    return opened_cassette(FOLDER / f"{name}.yaml", record_mode)


# Scenarios ----------------------------------------------------------------------------


@dataclasses.dataclass
class Scenario:
    """A cassette's content: `act` makes the requests, `prepare` scripts the simulator for them."""

    act: Callable[[Callable[..., Any]], Any]
    prepare: Callable[[Simulator], None] = lambda simulator: None


def prompt_sync(*args: Any, slug: str = "gpt-6-luna", **kwargs: Any) -> Any:
    conversation = llm.Conversation(llm.get_model(f"chatgpt-{slug}"), id="a-fixed-id")
    response = conversation.prompt(*args, **kwargs)
    response.text()
    return response


def _sign_in(ask: Any) -> Any:
    codes: list[plugin.DeviceCode] = []
    tokens = plugin.login(show=codes.append, wait=lambda seconds, left: None)
    return codes[0], tokens, fetch_models(tokens)


def _prepare_login(simulator: Simulator) -> None:
    simulator.approve_after_polls = 2


def _refresh(ask: Any) -> Any:
    tokens = plugin.load_tokens()
    assert tokens is not None
    plugin.store_tokens(tokens._replace(expires_at=time.time() - 60))
    return ask("After a refresh")


def _tool_turn(ask: Any) -> Any:
    def multiply(a: int, b: int) -> str:
        "Multiply two numbers"
        return str(a * b)

    first = ask("What is 6 times 7?", tools=[multiply])
    results = [
        llm.ToolResult(call.name, str(call.arguments["a"] * call.arguments["b"]), [], "fixed")
        for call in first._tool_calls
    ]
    for result, call in zip(results, first._tool_calls, strict=True):
        result.tool_call_id = call.tool_call_id
    messages = [*first.prompt.messages, *first._messages_now()]
    return first, ask(messages=messages, tool_results=results, tools=[multiply])


def _refusals(ask: Any) -> list[Any]:
    errors = []
    for slug in ("gpt-5.2-codex", "gpt-6-luna"):
        try:
            ask("Hello", slug=slug)
        except llm.ModelError as error:
            errors.append(error)
    return errors


def _prepare_refusals(simulator: Simulator) -> None:
    simulator.account.extra_models = ()
    limit: Answer = usage_limit(resets_at=1900000000, resets_in_seconds=36640)
    simulator.script("responses", None, limit)


def final_address(request: Any) -> str:
    """Build the address of the last redirect, with the fields that a replay depends on."""
    query = f"code=ac_any&state={request.state}&client_id={SCRUBBED_CLIENT_ID}"
    return f"{request.redirect_uri}?{query}"


def _official(ask: Any) -> Any:
    """Sign in by the official route and send a turn with a tool. Its first request gets a 401."""
    started: list[Any] = []
    numbers = itertools.count()

    def paste(line: Callable[[str], None], stop: Any) -> None:
        line(final_address(started[0]))

    # The recorded ID token repeats the nonce, so a replay needs the same one.
    with mock.patch("secrets.token_urlsafe", lambda size: f"fixed{next(numbers)}".ljust(size, "x")):
        tokens = plugin.login_officially(show=started.append, read_lines=paste)
    return tokens, *_tool_turn(ask)


def _prepare_tool_turn(simulator: Simulator) -> None:
    simulator.answer(Think(["Multiply."]), Call("multiply", {"a": 6, "b": 7}))
    simulator.answer(Say("It is 42."))


def _prepare_official(simulator: Simulator) -> None:
    # Otherwise the refresh after the 401 would be refused as too early.
    simulator.official.earliest_refresh_form = "absent"
    simulator.script("official_responses", Answer(401, {"detail": {"error_code": "invalid_token"}}))
    _prepare_tool_turn(simulator)


SCENARIOS = {
    "login": Scenario(_sign_in, _prepare_login),
    "refresh": Scenario(_refresh),
    "prompt": Scenario(
        lambda ask: ask("Three names for a pet pelican"),
        lambda s: s.answer(Think(["**Naming pelicans**"]), Say("Percy, Pouch and Gulp.")),
    ),
    "tool_turn": Scenario(_tool_turn, _prepare_tool_turn),
    "refusals": Scenario(_refusals, _prepare_refusals),
    "official": Scenario(_official, _prepare_official),
}

# Scenarios that begin without a login.
SIGN_INS = ("login", "official")


# Recording ----------------------------------------------------------------------------


@contextlib.contextmanager
def under_the_real_addresses(simulator: Simulator) -> Iterator[None]:
    """Send requests for OpenAI's hosts to the simulator."""
    library, sync_client = clients.library(), clients.sync_client

    def forward(request: Any) -> Any:
        with library.Client() as inner:
            path = request.url.raw_path.decode()
            headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
            answer = inner.request(
                request.method, simulator.issuer + path, headers=headers, content=request.read()
            )
        skip = ("transfer-encoding", "content-length")
        headers = [(k, v) for k, v in answer.headers.multi_items() if k.lower() not in skip]
        return library.Response(answer.status_code, headers=headers, content=answer.content)

    simulator.public_issuer = config.DEFAULT_ISSUER
    with library.Client(transport=library.MockTransport(forward)) as client:
        clients.sync_client = lambda: client
        try:
            yield
        finally:
            clients.sync_client = sync_client


HEADER = """# Recorded from the project's own simulator under the service's real addresses, because
# no ChatGPT account was at hand. Tokens, ids and emails are scrubbed; see tests/cassettes.py.
"""


def record_from_simulator() -> None:
    for name in ("ISSUER", "BASE_URL", "API_URL"):
        os.environ.pop(f"LLM_CHATGPT_{name}", None)
    for name, scenario in SCENARIOS.items():
        with tempfile.TemporaryDirectory() as folder, Simulator() as simulator:
            os.environ["LLM_USER_PATH"] = folder
            path = FOLDER / f"{name}.yaml"
            path.unlink(missing_ok=True)
            tokens = new_login(simulator, issuer=config.DEFAULT_ISSUER)
            if name not in SIGN_INS:
                plugin.store_tokens(tokens)
            scenario.prepare(simulator)

            def browse(request: Any, root: str = simulator.issuer) -> str:
                return redirect_of(root + request.url.removeprefix(config.DEFAULT_ISSUER))

            with (
                mock.patch(f"{__name__}.final_address", browse),
                under_the_real_addresses(simulator),
                cassette(name, "all"),
            ):
                scenario.act(prompt_sync)
            path.write_text(HEADER + path.read_text())
            print(path)


def record_from_openai(names: list[str]) -> None:
    def paste(request: Any) -> str:
        return input(f"{request.url}\nThe address that your browser ends on: ")

    for name in names:
        with mock.patch(f"{__name__}.final_address", paste), cassette(name, "all"):
            SCENARIOS[name].act(prompt_sync)
        print(FOLDER / f"{name}.yaml")


if __name__ == "__main__":
    if "--real" in sys.argv:
        record_from_openai(sys.argv[sys.argv.index("--real") + 1 :])
    else:
        record_from_simulator()
