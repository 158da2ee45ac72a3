"""The faults that a test can script, and the simulated Cloudflare."""

from __future__ import annotations

import time

import httpx
import pytest

from plain_requests import client, post
from simulator import Answer, Stream, error_answer

ENDPOINTS = [
    ("POST", "/oauth/token"),
    ("POST", "/api/accounts/deviceauth/usercode"),
    ("GET", "/backend-api/codex/models?client_version=1.0.0"),
    ("GET", "/backend-api/wham/usage"),
    ("POST", "/backend-api/codex/responses"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_cloudflare_blocks_only_the_user_agent_of_urllib(simulator, headers, method, path):
    def send(agent):
        body = {"json": {}} if method == "POST" else {}
        headers["User-Agent"] = agent
        return client.request(method, simulator.issuer + path, headers=headers, **body)

    blocked = send("Python-urllib/3.11")
    assert blocked.status_code == 403
    assert blocked.headers["cf-mitigated"] == "challenge"
    for agent in ("", "another-client/1.0"):
        assert "cf-mitigated" not in send(agent).headers


def test_a_wrong_content_encoding_can_be_scripted(simulator, headers):
    junk = Answer(200, b"no gzip", {"Content-Encoding": "gzip"})
    simulator.script("models", junk)
    with pytest.raises(httpx.DecodingError):
        client.get(f"{simulator.base_url}/codex/models", headers=headers)
    simulator.script("responses", Stream([b"no gzip"], headers={"Content-Encoding": "gzip"}))
    with pytest.raises(httpx.DecodingError):
        post(simulator, headers)


@pytest.mark.parametrize(
    ("endpoint", "method", "path"),
    [
        ("models", "GET", "/backend-api/codex/models"),
        ("accounts", "GET", "/backend-api/wham/accounts/check"),
        ("revoke", "POST", "/oauth/revoke"),
    ],
)
def test_an_answer_can_trickle(simulator, endpoint, method, path):
    simulator.script(endpoint, Answer(200, {"a": 1}, trickle=0.02))
    pieces = []
    with client.stream(method, simulator.issuer + path) as answer:
        for piece in answer.iter_raw():
            pieces.append((time.monotonic(), piece))
    assert answer.headers["content-length"] == "8"
    assert b"".join(piece for _, piece in pieces) == b'{"a": 1}'
    # Two bytes may arrive together on a busy machine, but not all of them.
    assert pieces[-1][0] - pieces[0][0] >= 0.1


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_can_say_when_to_try_again(simulator, headers, status):
    simulator.script("responses", Answer(status, {"detail": "Wait."}, {"Retry-After": "3"}))
    answer = post(simulator, headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "3")
    assert post(simulator, headers).status_code == 200


def test_a_permanent_answer_comes_after_the_scripted_ones(simulator, headers):
    simulator.always["responses"] = lambda request: Answer(500)
    simulator.script("responses", None, Answer(502))
    assert [post(simulator, headers).status_code for _ in range(4)] == [200, 502, 500, 500]


@pytest.mark.parametrize("path", ["/backend-api/codex/responses", "/v1/responses"])
def test_no_websocket_is_offered(simulator, path):
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    assert client.get(simulator.issuer + path, headers=upgrade).status_code == 426
    assert client.get(simulator.issuer + path).status_code == 405
    assert simulator.prompts == simulator.official_prompts == []
    simulator.script("websocket", error_answer(429, "slow_down"))
    assert client.get(simulator.issuer + path, headers=upgrade).status_code == 429
