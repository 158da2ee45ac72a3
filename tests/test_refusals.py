"""What the backend answers, as one plain sentence with the next step; and nothing secret."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
import traceback

import llm
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llm_chatgpt_oauth as plugin
import rooms
from conftest import expire, secrets_watch
from simulator import Answer, Say, error_answer, make_jwt, usage_limit, web_page

WORKSPACE = "x-codex-rate-limit-reached-type"


def limit(plan, **headers):
    answer = usage_limit(plan_type=plan, resets_at=int(time.time()) + 8100, resets_in_seconds=8100)
    answer.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return answer


TABLE = [
    # Usage limits: which plan, which window, when it resets, what that plan can do.
    (limit("plus"), "of your ChatGPT plus plan is reached; it resets on 20"),
    (limit("plus"), "in 2 hours 15 minutes. Wait, or upgrade to Pro or buy credits. See https"),
    (limit("pro"), "Wait, or buy credits."),
    (limit("prolite"), "Wait, or buy credits."),
    (limit("free"), "Wait, or upgrade to Plus."),
    (limit("go"), "Wait, or upgrade to Plus."),
    (limit("team"), "Wait, or ask your workspace's admin for more."),
    (limit("self_serve_business_prolite"), "ask your workspace's admin for more."),
    (limit("enterprise_cbp_trial"), "ask your workspace's admin for more."),
    (limit("enterprise"), "in 2 hours 15 minutes. Wait. See https://chatgpt.com/settings/usage"),
    (limit("something_new"), "in 2 hours 15 minutes. Wait. See"),
    (
        limit(
            "plus",
            x_codex_primary_used_percent="100.0",
            x_codex_primary_window_minutes="300",
            x_codex_secondary_used_percent="40",
            x_codex_secondary_window_minutes="10080",
        ),
        "The 5-hour usage limit",
    ),
    (
        limit(
            "plus",
            x_codex_secondary_used_percent="100",
            x_codex_secondary_window_minutes="10080",
        ),
        "The weekly usage limit",
    ),
    (limit("team", **{WORKSPACE: "workspace_member_credits_depleted"}), "workspace's owner"),
    (limit("plus", x_codex_limit_name="gpt-6-astra"), "Wait, or another model may still work"),
    (usage_limit(plan_type=None, resets_at=None, resets_in_seconds=None), "plan is reached. Wait."),
    (usage_limit(resets_at=None, resets_in_seconds=90), "in 2 minutes"),
    (Answer(429, {"error": {"type": "usage_not_included"}}), "does not include Codex"),
    # The account.
    (Answer(402, {"detail": {"code": "deactivated_workspace"}}), "workspace of this login was"),
    (Answer(403, {"detail": "Workspace says no"}), "(Workspace says no). Ask your workspace's"),
    (error_answer(401, None, "Workspace is not authorized in this region."), "region. Ask your"),
    (web_page(), "Cloudflare or a proxy"),
    (web_page(), "(cf-ray 8f0000000000abcd-FRA)"),
    (Answer(403, "<html>blocked</html>"), "answered with a web page"),
    # The model.
    (error_answer(404, None, "Model not found gpt-x", param="model"), "Run: llm -m chatgpt-gpt-6"),
    (
        Answer(400, {"detail": "The 'x' model requires a newer version of Codex. Please upgrade"}),
        "set LLM_CHATGPT_CLIENT_VERSION",
    ),
    (error_answer(400, "context_length_exceeded", "Too long: 300000 tokens"), "300000 tokens"),
    (error_answer(400, "context_length_exceeded", "Too long"), "context of 272,000 tokens"),
    (error_answer(400, "cyber_policy", "No."), "OpenAI's policies refuse this prompt (No)."),
    (error_answer(503, "server_is_overloaded", "Busy"), "The model is at capacity (Busy)."),
    # Shapes of bodies.
    (Answer(400, {"detail": "Input must be a list"}), "refused the request: Input must be a list."),
    (
        Answer(400, {"detail": [{"loc": ["body", "input"], "msg": "field required"}]}),
        "body.input: field required",
    ),
    (Answer(400, {"detail": {"message": "Wrong"}}), "refused the request: Wrong."),
    (Answer(400, {"error": "plain words"}), "refused the request: plain words."),
    (Answer(400, {"error": {"message": "M", "code": "c"}}), "refused the request: M."),
    (Answer(400, {"message": "M"}), "refused the request: M."),
    (Answer(400, ""), "refused the request (status 400)."),
    (Answer(400, "not json"), "refused the request (status 400)."),
    (Answer(400, [1, 2]), "refused the request (status 400)."),
    (Answer(418, {"detail": None}), "refused the request (status 418)."),
    (Answer(413), "too large for the server"),
    (
        error_answer(400, "unsupported_value", "Use 'low'.", param="reasoning.effort"),
        "Use 'low'. Choose one with -o reasoning_effort.",
    ),
    (Answer(400, {"detail": "a\nb\x1b[2Jc" + "\u202e" + "x" * 9999}), "a b\ufffd[2Jc"),
]


@pytest.mark.parametrize(("answer", "words"), TABLE)
def test_refusals(simulator, signed_in, ask, answer, words, monkeypatch):
    rooms.replace(monkeypatch, "MAX_RESENDS", 0)
    rooms.fetch_models(signed_in)
    simulator.script("responses", answer)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert "\x1b" not in text
    assert "<" not in text
    assert "{" not in text
    assert len(text) < 1200


def test_the_request_id_is_told(simulator, signed_in, ask):
    simulator.script("responses", Answer(400, {"detail": "No."}, {"x-request-id": "req-1"}))
    with pytest.raises(llm.ModelError, match=r"No\. \[request req-1\]$"):
        ask("hi")
    headers = {"x-oai-request-id": "oai-2"}
    reply = rooms.Reply(400, headers, b"{}")
    assert str(rooms.explain_refusal(reply)).endswith("[request oai-2]")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("error", "detail", "message", "code", "type", "param", "plan_type"),
                    *("resets_at", "resets_in_seconds", "loc", "msg", "error_description"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(
    st.integers(300, 599),
    st.binary(max_size=60) | JSON.map(lambda data: json.dumps(data).encode()),
    st.dictionaries(
        st.sampled_from(
            [
                *("x-request-id", "cf-ray", "content-type", "x-codex-plan-type", WORKSPACE),
                *("x-codex-primary-used-percent", "x-codex-primary-window-minutes"),
                *("x-codex-limit-name", "x-codex-primary-reset-at"),
            ]
        ),
        st.text(max_size=12) | st.floats().map(str),
    ),
)
def test_any_answer_is_a_sentence(status, body, headers):
    reply = rooms.Reply(status, headers, body)
    error = rooms.explain_refusal(reply, slug="gpt-6-luna")
    text = str(error)
    assert isinstance(error, llm.ModelError)
    assert text
    assert all(c.isprintable() for c in text)


@given(st.binary(max_size=80) | JSON.map(lambda data: json.dumps(data).encode()))
def test_any_claims_can_be_read(payload):
    import base64

    token = f"e30.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.x"
    claims = plugin.parse_jwt_claims(token)
    assert claims is None or isinstance(claims, dict)
    account = plugin.extract_account_id(token, token)
    assert account is None or isinstance(account, str)
    tokens = rooms.tokens_from_reply({"access_token": token, "id_token": token}, now=0.0)
    assert tokens is None or isinstance(rooms.needs_refresh(tokens, 0.0), bool)


CLAIMS = st.dictionaries(
    st.sampled_from(
        [
            *("exp", "iat", "email", "chatgpt_account_id", "organizations"),
            *(rooms.AUTH_CLAIM, rooms.PROFILE_CLAIM),
        ]
    ),
    st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["chatgpt_account_id", "organizations", "id", "chatgpt_plan_type"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=6,
    ),
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(CLAIMS, CLAIMS)
def test_any_claims_make_a_login(id_claims, access_claims):
    reply = {"access_token": make_jwt(access_claims), "id_token": make_jwt(id_claims)}
    tokens = rooms.tokens_from_reply(reply, now=1000.0)
    data = rooms._store_bytes(rooms.Store().put(None, tokens))
    entry = json.loads(data)["accounts"]["default"]
    assert rooms.tokens_from_store(entry) == tokens


def test_any_store_file_is_read_or_named(tmp_path_factory):
    @given(
        st.binary(max_size=60)
        | st.dictionaries(
            st.sampled_from(["version", "default", "accounts"]),
            st.integers(-1, 3)
            | st.text(max_size=4)
            | st.dictionaries(
                st.text(max_size=4),
                st.none()
                | st.dictionaries(
                    st.sampled_from(["access_token", "refresh_token", "expires_at", "fedramp"]),
                    st.none() | st.text(max_size=3) | st.floats() | st.booleans(),
                ),
            ),
        ).map(lambda data: json.dumps(data).encode())
    )
    def check(content):
        llm.user_dir()
        rooms.store_path().write_bytes(content)
        try:
            outcome = str(rooms.read_store())
        except plugin.StoreError as error:
            outcome = str(error)
        assert str(rooms.store_path()) in outcome or outcome.startswith("Store(")

    check()


def test_any_model_list_is_read(tmp_path_factory):
    entry = st.dictionaries(
        st.sampled_from(["slug", *rooms.KEPT_MODEL_FIELDS]),
        st.none() | st.text(max_size=4) | st.floats() | st.lists(st.text(max_size=3), max_size=2),
    )

    @given(st.lists(entry | st.none(), max_size=3), st.none() | st.lists(st.text(max_size=3)))
    def check(models, seen):
        llm.user_dir()
        data = {"accounts": {"a": {"models": models, "fetched_at": "x"}}, "seen": seen}
        rooms.models_path().write_text(json.dumps(data))
        known = rooms.known_models()
        assert set(rooms.BUILT_IN_MODELS) <= set(known)
        assert all(isinstance(info.slug, str) and info.slug for info in known.values())

    check()


# Secrets ------------------------------------------------------------------------------------


def chained(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


@pytest.mark.parametrize(
    "fault",
    [
        Answer(400, {"detail": "Unsupported parameter: x"}),
        Answer(drop=True),
        error_answer(401, "token_expired"),
        Answer(500, "<html>"),
    ],
)
def test_no_token_in_a_traceback(simulator, signed_in, ask, monkeypatch, fault):
    rooms.replace(monkeypatch, "FIRST_RESEND_PAUSE_SECONDS", 0.001)
    simulator.script("responses", *[fault] * 6)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    with secrets_watch(simulator) as check:
        check(chained(caught.value))
    assert simulator.account.account_id not in chained(caught.value)


@pytest.mark.parametrize("endpoint", ["usercode", "device_token", "token"])
@pytest.mark.parametrize("fault", [Answer(400, {"error": "odd"}), Answer(drop=True)])
def test_no_code_in_a_login_error(simulator, endpoint, fault):
    simulator.script(endpoint, *[fault] * 3)
    code = None

    def show(shown):
        nonlocal code
        code = shown
        simulator.approve(shown.user_code)

    try:
        plugin.login(show=show, wait=lambda seconds, left: None)
    except plugin.LoginFailed as error:
        text = chained(error)
        if code:
            assert code.device_auth_id not in text
            assert code.user_code not in text
        for request in simulator.seen("/oauth/token"):
            assert request.body["code"] not in text
            assert request.body["code_verifier"] not in text
    else:
        assert endpoint == "device_token"


def test_no_token_in_debug_logging(simulator, caplog):
    caplog.set_level(logging.DEBUG)
    plugin.login(show=lambda code: simulator.approve(code.user_code))
    plugin.store_tokens(expire())
    simulator.answer(Say("Answer."))
    model = llm.get_model("chatgpt-gpt-6-luna")
    assert model.prompt("hi").text() == "Answer."
    assert "httpcore" in caplog.text or "httpx" in caplog.text
    with secrets_watch(simulator) as check:
        check(caplog.text)
    for request in simulator.seen("/oauth/token"):
        for secret in ("code", "code_verifier", "refresh_token"):
            if secret in request.body:
                assert request.body[secret] not in caplog.text
    assert simulator.account.account_id not in caplog.text
    assert simulator.account.email not in caplog.text


def test_no_token_on_any_output(simulator, signed_in, run_llm):
    outputs = []
    for command in (
        *(["chatgpt", "status"], ["chatgpt", "status", "--json"], ["chatgpt", "models"]),
        *(["chatgpt", "usage"], ["chatgpt", "usage", "--json"], ["chatgpt", "refresh"]),
        *(["-m", "chatgpt-gpt-6-luna", "hi", "-u"], ["logs", "--json"], ["chatgpt", "logout"]),
    ):
        outputs.append(run_llm(*command).output)
    with secrets_watch(simulator) as check:
        check("\n".join(outputs))


@pytest.mark.parametrize("command", [["status"], ["models"], ["usage"], ["login"]])
def test_output_fits_into_a_pipe_of_code_page_1252(simulator, signed_in, command):
    simulator.approve_after_polls = 0
    done = subprocess.run(
        [sys.executable, "-m", "llm", "chatgpt", *command],
        env=os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    done.stdout.decode("ascii")


def test_a_hostile_account_cannot_paint_the_terminal(simulator, run_llm):
    simulator.account.email = "\x1b[31mred\x07@example.com"
    simulator.account.plan = "pl\x1bus"
    simulator.approve_after_polls = 0
    simulator.models = [
        {**simulator.models[0], "supported_reasoning_levels": ["lo\x1bw"]},
        {**simulator.models[1], "slug": "evil\x1b[2J"},
    ]
    text = run_llm("chatgpt", "login").output + run_llm("chatgpt", "status").output
    text += run_llm("chatgpt", "models").output
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_the_answer_itself_is_passed_on_unchanged(simulator, signed_in, ask):
    simulator.answer(Say("\x1b[1mbold\x1b[0m \u202e"))
    assert ask("hi").text == "\x1b[1mbold\x1b[0m \u202e"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (0.4, "0.4 seconds"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (61, "1 minute"),
        (3600, "1 hour"),
        (8100, "2 hours 15 minutes"),
        (90000, "1 day 1 hour"),
        (-5, "0 seconds"),
    ],
)
def test_lengths_of_time(seconds, words):
    assert rooms.in_words(seconds) == words


@pytest.mark.parametrize("moment", [1e20, -1e20, float("nan")])
def test_a_moment_that_no_calendar_has(moment):
    assert rooms.local_time(moment) == "an unknown time"


def test_a_file_system_that_cannot_lock(simulator, signed_in, monkeypatch):
    import filelock

    def cannot(self, *args, **kwargs):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", cannot)
    with pytest.raises(plugin.StoreError, match="No locks available"):
        plugin.store_tokens(signed_in)
    # A token that works does not need the lock; one that has ended says what is wrong.
    expire_by_hand(100)
    assert plugin.get_tokens()
    expire_by_hand(-100)
    with pytest.raises(plugin.StoreError, match="No locks available"):
        plugin.get_tokens()


def expire_by_hand(seconds):
    data = json.loads(rooms.store_path().read_text())
    data["accounts"]["default"]["expires_at"] = time.time() + seconds
    rooms.store_path().write_text(json.dumps(data))


def test_a_file_that_cannot_be_read(simulator, signed_in, monkeypatch):
    import pathlib

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
    with pytest.raises(plugin.StoreError, match=r"cannot be read \(Permission denied\)"):
        plugin.load_tokens()


def test_a_folder_that_is_gone(simulator, signed_in):
    import shutil

    shutil.rmtree(rooms.store_path().parent)
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login"):
        plugin.get_tokens()


def test_a_certificate_that_is_not_accepted():
    http = rooms.http_library()
    error = http.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    assert "certificate was not accepted" in rooms.transport_reason(error)
    assert rooms.transport_reason(http.ProxyError("x")) == "the proxy refused"
    assert rooms.transport_reason(http.ReadTimeout("x")) == "it did not answer in time"


def test_a_system_without_fchmod(monkeypatch, signed_in):
    """As on Windows, where files are private by the folder's rights."""
    other = signed_in._replace(email="bob@example.com")
    # Within the lock, because some versions of filelock count on fchmod themselves.
    with rooms.locked_store() as writer:
        monkeypatch.delattr(os, "fchmod", raising=False)
        rooms.replace(monkeypatch, "WINDOWS", True)
        writer.save(rooms.Store().put(None, other))
    assert plugin.load_tokens() == other
