"""The HTTP module: limits, failures and clients, against real sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import time
import traceback
import weakref

import pytest

import llm_chatgpt_oauth as plugin
from llm_chatgpt import config, http
from llm_chatgpt.certificates import tls_context
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed
from simulator import Answer, Stream


def ask_models(simulator, **more):
    headers = {"User-Agent": config.user_agent()}
    return http.send("GET", f"{simulator.base_url}/codex/models", headers=headers, **more)


def test_a_limit_is_for_the_whole_exchange(simulator):
    """Each single read comes quickly; together they take longer than allowed."""
    simulator.script("models", Stream([b"{", *[0.05, b" "] * 40]))
    start = time.monotonic()
    with pytest.raises(ConnectionFailed, match=r"did not answer within 0\.3 seconds"):
        ask_models(simulator, seconds=0.3)
    assert time.monotonic() - start < 1.5


def test_a_silent_server_is_given_up(simulator):
    simulator.script("models", Answer(200, {}, delay=2.0))
    with pytest.raises(ConnectionFailed, match="did not answer"):
        ask_models(simulator, seconds=0.2)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_that_cannot_be_decoded_is_an_error(simulator, encoding):
    simulator.script("models", Answer(200, b"no such thing", {"Content-Encoding": encoding}))
    with pytest.raises(ConnectionFailed, match="could not be decoded"):
        ask_models(simulator)


def test_a_refused_connection_names_the_host():
    with pytest.raises(ConnectionFailed, match=r"^Could not reach 127\.0\.0\.1:9\. Check the"):
        http.send("GET", "http://127.0.0.1:9/")


def test_a_broken_connection_is_an_error_with_advice(simulator):
    simulator.script("models", Answer(drop=True))
    with pytest.raises(ConnectionFailed, match=r"^The connection to .* broke off\. Check the"):
        ask_models(simulator)


@pytest.mark.parametrize("value", ["Bearer secret\nx: y", "Bearer sécret", ""])
def test_an_invalid_header_value_is_refused_and_not_shown(simulator, value):
    with pytest.raises(ChatGPTError, match="The header Authorization cannot be sent") as caught:
        http.send("GET", simulator.base_url, headers={"Authorization": value})
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown.replace("Bearer secret\\nx", "")
    assert "sécret" not in shown
    assert simulator.requests == []


def test_failures_can_be_pickled():
    failure = ConnectionFailed("Could not reach x.", stalled=True)
    again = pickle.loads(pickle.dumps(failure))
    assert (again.message, again.stalled, again.code) == (failure.message, True, "connection")


ERRORS = [
    value
    for value in vars(plugin).values()
    if isinstance(value, type) and issubclass(value, plugin.ChatGPTError)
]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_can_be_pickled(kind):
    error = kind("It failed.")
    error.code, error.status, error.retry_after = "a_code", 429, 7.0
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "It failed."
    assert vars(copy) == vars(error)


def test_an_error_of_a_prompt_can_be_pickled(simulator, signed_in, ask):
    simulator.script("responses", Answer(429, None, {"Retry-After": "300"}))
    with pytest.raises(plugin.RequestRefused) as caught:
        ask("hi")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.status, copy.retry_after) == (str(caught.value), 429, 300.0)


def test_clients_do_not_keep_closed_event_loops_alive(simulator):
    request = {
        "method": "GET",
        "url": f"{simulator.base_url}/codex/models",
        "headers": {"User-Agent": config.user_agent()},
    }
    loops = []

    async def ask():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with http.AsyncStream(request) as answer:
            await answer.read()

    for _ in range(5):
        asyncio.run(ask())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_opens_connections_of_its_own(simulator):
    ask_models(simulator)
    child = os.fork()
    if not child:
        status = 1
        try:
            ask_models(simulator, seconds=5)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ask_models(simulator)
    first, second, third = (request.connection for request in simulator.requests)
    assert first == third != second


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "CODEX_CA_CERTIFICATE"])
def test_certificates_of_the_environment_are_read(name, monkeypatch, tmp_path):
    import trustme

    authority = trustme.CA()
    file = tmp_path / "root.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv(name, str(tmp_path if name == "SSL_CERT_DIR" else file))
    loaded = str(tls_context().get_ca_certs())
    # OpenSSL reads a folder only when it needs a certificate.
    assert name == "SSL_CERT_DIR" or "trustme" in loaded


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"no certificate", "no certificate in it")]
)
def test_unreadable_certificates_are_an_error(content, reason, monkeypatch, tmp_path):
    file = tmp_path / "root.pem"
    if content:
        file.write_bytes(content)
    monkeypatch.setenv("CODEX_CA_CERTIFICATE", str(file))
    with pytest.raises(ChatGPTError, match=f"{reason}.*unset CODEX_CA_CERTIFICATE"):
        tls_context()


def test_an_answer_of_more_than_16_mib_is_refused(simulator, signed_in, run_llm):
    body = b"x" * (16 * 2**20 + 1)
    simulator.script("usage", Answer(200, body))
    result = run_llm("chatgpt", "usage")
    assert result.exit_code == 1
    assert "sent an answer of more than 16 MiB. Check the network" in result.stderr
