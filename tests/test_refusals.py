"""Each refusal of the backend becomes a message on one line, usually with advice."""

from __future__ import annotations

import time

import llm
import pytest

from conftest import sign_in
from llm_chatgpt.backend.endpoints import fetch_models
from llm_chatgpt.backend.reached_limit import plan_name
from simulator import Account, Answer, Stream, error_answer, sse, usage_limit, web_page

LIMIT_TYPE = "x-codex-rate-limit-reached-type"


def limit_at(seconds, resets_in_seconds=None, plan="plus", **headers):
    """Build the answer for a limit that resets in `seconds`; None leaves the time out."""
    resets_at = None if seconds is None else int(time.time()) + seconds
    answer = usage_limit(plan_type=plan, resets_at=resets_at, resets_in_seconds=resets_in_seconds)
    answer.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return answer


def limit(plan, **headers):
    return limit_at(8100, 8100, plan, **headers)


REFUSALS = [
    # Usage limits: the plan, the window, the time of the reset, and the plan's advice.
    (
        limit("plus"),
        "The usage limit of your ChatGPT Plus plan is reached. It resets in 2 hours 15",
    ),
    (limit("plus"), "). Wait for the reset, upgrade to Pro, or buy credits: https"),
    (limit("pro"), "Wait for the reset or buy credits: https"),
    (limit("prolite"), "Wait for the reset or buy credits: https"),
    (limit("free"), "Wait for the reset or upgrade to Plus: https"),
    (limit("go"), "Wait for the reset or upgrade to Plus: https"),
    (limit("team"), "Wait for the reset or ask your workspace's admin for more: https"),
    (limit("self_serve_business_prolite"), "ask your workspace's admin for more: https"),
    (limit("enterprise_cbp_trial"), "ask your workspace's admin for more: https"),
    (limit("enterprise"), "). Wait for the reset, or see https://chatgpt.com/settings/usage"),
    (limit("edu"), "). Wait for the reset, or see https://chatgpt.com/settings/usage"),
    (limit("something_new"), "of your ChatGPT Something New plan is reached. It resets in"),
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
    (limit("team", **{LIMIT_TYPE: "workspace_member_credits_depleted"}), "workspace's owner"),
    (
        limit("plus", x_codex_limit_name="gpt-6-astra"),
        "Wait for the reset, try another model, upgrade to Pro, or",
    ),
    (
        usage_limit(plan_type=None, resets_at=None, resets_in_seconds=None),
        "plan is reached. Wait for",
    ),
    (usage_limit(resets_at=None, resets_in_seconds=100), "in 2 minutes"),
    # A reset in the past is ignored, because the server's clock may differ.
    (limit_at(-480), "plan is reached. Wait for the reset, upgrade"),
    (limit_at(-480, resets_in_seconds=100), "It resets in 2 minutes"),
    (
        limit_at(
            None,
            x_codex_primary_used_percent="100",
            x_codex_primary_window_minutes="300",
            x_codex_primary_reset_after_seconds="100",
        ),
        "The 5-hour usage limit of your ChatGPT Plus plan is reached. It resets in 2 minutes",
    ),
    (Answer(429, {"error": {"type": "usage_not_included"}}), "does not include Codex"),
    # The account.
    (Answer(402, {"detail": {"code": "deactivated_workspace"}}), "workspace of this login was"),
    (Answer(403, {"detail": "It says no"}), ": It says no. Try again later, or run 'llm"),
    (
        error_answer(401, None, "Workspace is not authorized in this region."),
        "region. Set LLM_CHATGPT_RESIDENCY",
    ),
    (web_page(), "Cloudflare or a proxy"),
    (web_page(), "[cf-ray 8f0000000000abcd-FRA]"),
    (Answer(403, "<html>blocked</html>"), "answered with a web page"),
    # The model.
    (error_answer(404, None, "Model not found gpt-x", param="model"), "Run: llm -m chatgpt-gpt-6"),
    (
        Answer(400, {"detail": "The 'x' model requires a newer version of Codex. Please upgrade"}),
        "set LLM_CHATGPT_CLIENT_VERSION to a newer version.",
    ),
    (error_answer(400, "context_length_exceeded", "Too long: 300000 tokens"), "300000 tokens"),
    (error_answer(400, "context_length_exceeded", "Too long"), "context of 272,000 tokens"),
    (
        error_answer(400, "cyber_policy", "No."),
        "OpenAI's policies refuse this prompt: No. Rephrase it.",
    ),
    (
        error_answer(503, "server_is_overloaded", "Busy"),
        "The model is at capacity: Busy. Try again in a minute, or",
    ),
    # Quotas and rules of an organization, and other final refusals.
    (
        error_answer(429, "organization_usage_limit_exceeded", "Quota exceeded."),
        "Your organization has used up its limit: Quota exceeded. Ask its admin to raise it.",
    ),
    (
        error_answer(429, None, "Quota exceeded.", type="organization_spend_limit_exceeded"),
        "Your organization has used up its limit: Quota exceeded. Ask its admin to raise it.",
    ),
    (
        error_answer(503, "policy_capacity_unavailable", "Policy-restricted capacity"),
        "no capacity for this prompt: Policy-restricted capacity. Try again in a minute, or",
    ),
    (
        error_answer(403, "access_program_not_enabled", "Not enabled."),
        "has not been admitted to an OpenAI access program: Not enabled. Ask its admin, or choose",
    ),
    (
        error_answer(403, "inference_hook_denied", "A hook said no."),
        "A rule of your workspace refuses this prompt: A hook said no. Rephrase it, or ask",
    ),
    (
        error_answer(401, "token_invalidated", "Your token is invalid. Please sign in again."),
        "no longer accepts this login: Your token is invalid. Run 'llm chatgpt login' to sign in",
    ),
    (
        error_answer(400, "tool_collision", "Tool names must be unique."),
        "OpenAI cannot tell two tools apart: Tool names must be unique. Leave one of them out",
    ),
    (
        error_answer(400, "invalid_image_request", "Invalid image in your last message"),
        "OpenAI cannot read an image: Invalid image in your last message. Leave it out, or",
    ),
    # Other forms of the body.
    (Answer(400, {"detail": "Input must be a list"}), "refused the request: Input must be a list."),
    (
        Answer(400, {"detail": [{"loc": ["body", "input"], "msg": "field required"}]}),
        "body.input: field required",
    ),
    (Answer(400, {"detail": {"message": "Wrong"}}), "refused the request: Wrong."),
    (Answer(400, {"detail": "No. Ask us"}), "refused the request: No. Ask us."),
    (Answer(400, {"error": "plain words"}), "refused the request: plain words."),
    (Answer(400, {"error": {"message": "M", "code": "c"}}), "refused the request: M."),
    (Answer(400, {"message": "M"}), "refused the request: M."),
    (Answer(400, ""), "refused the request (status 400)."),
    (Answer(400, "not json"), "refused the request (status 400)."),
    (Answer(400, [1, 2]), "refused the request (status 400)."),
    (Answer(418, {"detail": None}), "refused the request (status 418)."),
    (Answer(413), "too large for the server"),
    (Answer(429), "Too many requests. Wait a minute and try again."),
    (Answer(500), "OpenAI server error (500). Try again in a minute."),
    (
        error_answer(503, "x", "It failed. Sorry."),
        "OpenAI server error (503): It failed. Try again in a minute.",
    ),
    (
        error_answer(400, "unsupported_value", "Use 'low'.", param="reasoning.effort"),
        "Use 'low'. Choose one with -o reasoning_effort.",
    ),
    (Answer(400, {"detail": "a\nb\x1b[2Jc" + "\u202e" + "x" * 9999}), "a b\ufffd[2Jc"),
]


@pytest.fixture(autouse=True)
def no_resends(monkeypatch):
    monkeypatch.setattr("llm_chatgpt.config.MAX_RESENDS", 0)


@pytest.mark.parametrize(("answer", "words"), REFUSALS)
def test_each_refusal_becomes_a_message_on_one_line(simulator, signed_in, ask, answer, words):
    fetch_models(signed_in)
    # Twice, because some refused requests are sent once more.
    simulator.script("responses", answer, answer)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert "\x1b" not in text
    assert "<" not in text
    assert "{" not in text
    assert len(text) < 1200


def test_the_request_id_comes_last(simulator, signed_in, ask):
    simulator.script("responses", Answer(413, None, {"x-request-id": "req-1"}))
    with pytest.raises(llm.ModelError, match=r"smaller attachments\. \[request req-1\]$"):
        ask("hi")
    failed = sse({"type": "error", "message": "No"})
    simulator.script("responses", Stream([failed], headers={"x-oai-request-id": "oai-2"}))
    with pytest.raises(llm.ModelError, match=r"Send the prompt again\. \[request oai-2\]$"):
        ask("hi")


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        (
            error_answer(400, "Unsupported_Value", "Use 'low'. Or none.", param="reasoning.effort"),
            {
                "reason": "Use 'low'",
                "advice": "Or none. Choose one with -o reasoning_effort.",
                "code": "unsupported_value",
                "param": "reasoning.effort",
                "status": 400,
            },
        ),
        (
            Answer(400, {"detail": "Unsupported parameter: reasoning.summary"}),
            {"param": "reasoning.summary", "code": None, "advice": ""},
        ),
        (Answer(400, {"detail": "Unexpected header: session-id"}), {"param": "session-id"}),
        (
            Answer(413, None, {"x-request-id": "req-1"}),
            {
                "reason": "The prompt is too large for the server",
                "advice": "Send less text or smaller attachments.",
                "request_id": "req-1",
                "param": None,
                "tokens_refused": False,
            },
        ),
        (
            error_answer(400, None, "It says no. See https://help.example.com/no for more."),
            {"reason": "OpenAI refused the request: It says no", "param": None},
        ),
        (
            Answer(401, {"detail": "Unauthorized"}),
            {
                "reason": "OpenAI no longer accepts this login: Unauthorized",
                "advice": "Run 'llm chatgpt login' to sign in again.",
                "status": 401,
                "tokens_refused": True,
            },
        ),
        (
            error_answer(401, None, "Workspace is not authorized in this region."),
            {"code": "wrong_region", "status": 401, "tokens_refused": False},
        ),
        (
            Stream([sse({"type": "error", "code": "x", "message": "It failed. Ask us."})]),
            {
                "reason": "OpenAI could not finish the answer: It failed",
                "advice": "Ask us. Send the prompt again.",
                "status": None,
            },
        ),
    ],
)
def test_a_refusal_has_fields_by_which_callers_decide(simulator, signed_in, ask, answer, fields):
    simulator.script("responses", *[answer] * 3)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert {name: getattr(caught.value, name) for name in fields} == fields


@pytest.mark.parametrize("plan", ["team", "enterprise", "edu", "something_new", None])
def test_in_a_workspace_the_advice_is_to_ask_the_admin(simulator, ask, plan):
    simulator.account.plan = plan
    sign_in(simulator)
    simulator.script("responses", Answer(403, {"detail": "It says no"}))
    with pytest.raises(llm.ModelError, match=r"no\. Ask your workspace's admin, or run 'llm"):
        ask("hi")


def test_suggested_commands_have_the_key_but_no_access_token(simulator, signed_in, ask):
    sign_in(simulator, "work")
    missing = error_answer(404, None, "Model not found gpt-x", param="model")
    simulator.script("responses", *[missing] * 6)
    for key, option in (("work", " --key work"), (None, "")):
        with pytest.raises(llm.ModelError, match=f'Run: llm -m chatgpt-gpt-6.1-sol{option} "prom'):
            ask("hi", key=key)
    simulator.personal_tokens["at-eve"] = Account(email="eve@example.com")
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", key="at-eve")
    assert "at-eve" not in str(caught.value)


def test_a_single_retry_has_no_number(simulator, signed_in, run_llm):
    simulator.script("responses", web_page())
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert result.exit_code == 0
    assert "blocks this network; retrying...\n" in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        {"code": "insufficient_quota"},
        {"code": "organization_spend_limit_exceeded"},
        {"code": None, "type": "organization_spend_limit_exceeded"},
        {"code": "organization_usage_limit_exceeded"},
        {"code": "usage_limit_reached"},
        {"code": None, "type": "usage_limit_reached"},
    ],
)
@pytest.mark.parametrize("kind", ["response.failed", "error", "flat"])
def test_a_quota_error_in_the_stream_keeps_the_servers_words(
    simulator, signed_in, ask, error, kind
):
    error = {**error, "message": "You exceeded your quota. See your plan."}
    event = {"type": "error", "error": error}
    if kind == "flat":
        event = {"type": "error", **{k: v for k, v in error.items() if k != "type"}}
    if kind == "response.failed":
        event = {"type": kind, "response": {"status": "failed", "error": error}}
    simulator.script("responses", Stream([sse(event)]))
    with pytest.raises(llm.ModelError, match=r": You exceeded your quota\. See your plan\. "):
        ask("hi")


def test_errors_of_the_server_about_the_history_are_quoted(simulator, signed_in, ask):
    refusal = error_answer(400, None, "No tool output found for function call X.", param="input")
    simulator.script("responses", refusal)
    with pytest.raises(llm.ModelError, match="No tool output found for function call X"):
        ask("hi")


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ("plus", "Plus"),
        ("prolite", "Pro Lite"),
        ("self_serve_business_usage_based", "Business"),
        ("enterprise_cbp_trial", "Enterprise"),
        ("edu_plus", "Edu Plus"),
        ("free_workspace", "Free Workspace"),
        (None, "?"),
    ],
)
def test_plans_have_readable_names(plan, name):
    assert plan_name(plan) == name
