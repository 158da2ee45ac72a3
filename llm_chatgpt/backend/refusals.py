"""What the service's errors mean."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

from llm_chatgpt import config, http
from llm_chatgpt.backend.catalogue import BUILT_IN_MODELS, ModelInfo, ModelList
from llm_chatgpt.backend.usage import windows_of_headers
from llm_chatgpt.errors import RequestRefused, UsageLimitReached
from llm_chatgpt.text import in_words, local_time, printable
from llm_chatgpt.values import as_mapping, as_number

# responses.md 9: what each plan can do at its limit.
_LIMIT_ADVICE = (
    (("plus",), "upgrade to Pro or buy credits"),
    (("pro", "prolite", "promax"), "buy credits"),
    (("free", "go", "guest"), "upgrade to Plus"),
    (("team", "business", "ent26"), "ask your workspace's admin for more"),
)
POLICY_CODES = frozenset(
    {"cyber_policy", "bio_policy", "misalignment_policy_violation", "invalid_prompt"}
)
# Ours, for a 401 that a renewed login would get as well.
REGION_CODE = "not_in_this_region"
_CAPACITY_CODES = frozenset({"server_is_overloaded", "slow_down"})
# Each of them lasts longer than anybody would wait.
_LIMIT_CODES = frozenset(
    {"usage_limit_reached", "insufficient_quota", "organization_spend_limit_exceeded"}
)
_OWNER_LIMITS = (
    "workspace_owner_credits_depleted",
    "workspace_member_credits_depleted",
    "workspace_owner_usage_limit_reached",
    "workspace_member_usage_limit_reached",
)


def error_message(reply: http.Reply) -> str | None:
    """The server's own words: `error.message`, `error`, `detail` in its three forms."""
    data = as_mapping(reply.data)
    error, detail = data.get("error"), data.get("detail")
    entries = detail if isinstance(detail, list) else []
    words = "; ".join(
        f"{'.'.join(map(str, entry.get('loc') or []))}: {entry.get('msg')}"
        for entry in entries
        if isinstance(entry, dict)
    )
    for text in (
        as_mapping(error).get("message"),
        data.get("error_description"),
        error,
        detail,
        as_mapping(detail).get("message"),
        words,
        data.get("message"),
    ):
        if isinstance(text, str) and text.strip():
            return printable(text)
    return None


def sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def explain_refusal(
    reply: http.Reply, *, slug: str | None = None, models: ModelList | None = None
) -> RequestRefused:
    """One plain sentence with the next step for any error the backend answers with.

    `models` is what the account has, to name another model. Facts: responses.md 8 and 9.
    """
    error = as_mapping(as_mapping(reply.data).get("error"))
    code = reply.error_code
    kind = error.get("type") if isinstance(error.get("type"), str) else None
    words = error_message(reply)
    said = f" ({sentence(words)[:-1]})" if words else ""
    limit_type = reply.headers.get("x-codex-rate-limit-reached-type")
    refused = functools.partial(_refusal, reply, code or kind)

    if code in _LIMIT_CODES or kind == "usage_limit_reached" or limit_type in _OWNER_LIMITS:
        return _refusal(reply, code or kind, _limit_message(reply, error), UsageLimitReached)
    if "usage_not_included" in (code, kind):
        return _refusal(
            reply,
            "usage_not_included",
            "Your ChatGPT plan does not include Codex, which this login needs. Upgrade at "
            "https://chatgpt.com/#pricing, or sign in with another account: 'llm chatgpt login'.",
            UsageLimitReached,
        )
    if "deactivated_workspace" in (code, kind):
        return refused(
            "The ChatGPT workspace of this login was deactivated. Sign in with another "
            "account: 'llm chatgpt login'."
        )
    if reply.is_web_page and reply.status < 500:
        return refused(http.web_page_message(reply))
    if words and ("is not supported when using Codex" in words or "Model not found" in words):
        return refused(_model_message(words, slug, models))
    if words and "requires a newer version" in words:
        return refused(
            f"{sentence(words)} For this plugin that means: set LLM_CHATGPT_CLIENT_VERSION to "
            "the version that is asked for, and look for a newer llm-chatgpt-oauth."
        )
    if code == "context_length_exceeded":
        return refused(_context_message(words, models.find(slug) if models and slug else None))
    if code in POLICY_CODES:
        return refused(f"OpenAI's policies refuse this prompt{said}. Rephrase it.")
    if code in _CAPACITY_CODES:
        return refused(
            f"The model is at capacity{said}. Try again in a minute, or choose another model."
        )
    if reply.status == 401:
        if words and "region" in words:
            message = f"{sentence(words)} Ask your workspace's admin."
            return _refusal(reply, REGION_CODE, message)
        return refused(
            f"OpenAI does not accept this login any more{said}. Run 'llm chatgpt login' to "
            "sign in again."
        )
    if reply.status == 403:
        return refused(
            f"OpenAI refuses this account's request{said}. Ask your workspace's admin, or sign "
            "in with another account: 'llm chatgpt login'."
        )
    if reply.status == 413:
        return refused("The prompt is too large for the server. Send less text or smaller images.")
    if reply.status == 429:
        return refused(f"OpenAI asks for fewer requests{said}. Wait a minute and try again.")
    if reply.status >= 500:
        return refused(
            f"OpenAI's server is in trouble (status {reply.status}){said}. Try again in a minute."
        )
    param = error.get("param")
    if reply.status == 400 and param == "reasoning.effort" and words:
        return refused(f"{sentence(words)} Choose one with -o reasoning_effort.")
    if words:
        return refused(f"OpenAI refused the request: {sentence(words)}")
    return refused(f"OpenAI refused the request (status {reply.status}). Try again later.")


def _refusal(
    reply: http.Reply,
    code: str | None,
    message: str,
    kind: type[RequestRefused] = RequestRefused,
) -> RequestRefused:
    for name in ("x-request-id", "x-oai-request-id"):
        if reply.headers.get(name):
            message += f" [request {printable(reply.headers[name], 80)}]"
            break
    return kind(message, code=code, status=reply.status)


def _limit_message(reply: http.Reply, error: Mapping[str, Any]) -> str:
    plan = error.get("plan_type") or reply.headers.get("x-codex-plan-type")
    plan = plan.lower() if isinstance(plan, str) else ""
    name = reply.headers.get("x-codex-limit-name")
    window = _full_window(reply.headers)
    message = f"The {window}usage limit of your ChatGPT plan is reached"
    if plan:
        message = f"The {window}usage limit of your ChatGPT {printable(plan, 40)} plan is reached"
    now = time.time()
    resets_in = as_number(error.get("resets_in_seconds"))
    resets_at = as_number(error.get("resets_at"))
    if resets_at is None and resets_in is not None:
        resets_at = now + resets_in
    if resets_at is not None:
        left = resets_in if resets_in is not None else resets_at - now
        message += f"; it resets on {local_time(resets_at)}, in {in_words(left)}"
    advice = next((text for plans, text in _LIMIT_ADVICE if plan in plans), None)
    if advice is None and plan.startswith(("self_serve_business", "enterprise_cbp")):
        advice = _LIMIT_ADVICE[-1][1]
    if reply.headers.get("x-codex-rate-limit-reached-type") in _OWNER_LIMITS:
        advice = "ask your workspace's owner to raise the limit or add credits"
    if name and name.lower() != "codex":
        advice = "another model may still work" + (f", or {advice}" if advice else "")
    return f"{message}. Wait{', or ' + advice if advice else ''}. See {config.USAGE_PAGE}"


def _full_window(headers: Mapping[str, str]) -> str:
    """'5-hour ', 'weekly ' or '': the window whose allowance is used up."""
    full = [window.name for window in windows_of_headers(headers) if window.used_percent >= 100]
    return f"{full[-1]} " if full else ""


def _model_message(words: str, slug: str | None, models: ModelList | None) -> str:
    listed = models.listed if models else []
    named = next((m for m in (models.models if models else ()) if m.slug == slug), None)
    candidates = [
        named and named.upgrade,
        slug in BUILT_IN_MODELS and BUILT_IN_MODELS[slug].upgrade if slug else None,
        *[model.slug for model in listed],
        *([] if listed else BUILT_IN_MODELS),
    ]
    successor = next((c for c in candidates if c and c != slug), None)
    message = f"{sentence(words)} "
    if listed:
        message += f"Your login has: {', '.join(model.slug for model in listed)}. "
    return f'{message}Run: llm -m chatgpt-{successor} "prompt"'


def _context_message(words: str | None, model: ModelInfo | None) -> str:
    limit = ""
    if model and model.context_window:
        limit = f" of {model.context_window:,} tokens"
    said = f" ({sentence(words)[:-1]})" if words else ""
    return (
        f"The conversation is longer than the model's context{limit}{said}. Start a new one, "
        "or send less."
    )
