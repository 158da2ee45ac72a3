"""Explain the service's errors: what happened, and the next step.

The code, message or status of a reply selects a text from `_TEXTS`. docs/protocol.md describes the
errors under "Errors" and "Official errors". Nothing here sends a request or decides to send it
again: callers decide that by the error's class and fields.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_chatgpt import config, http
from llm_chatgpt.backend import reached_limit
from llm_chatgpt.backend.catalogue import ModelList, successor
from llm_chatgpt.errors import ChatGPTError, RequestRefused, StreamFailed, UsageLimitReached
from llm_chatgpt.login.tokens import Tokens, residencies
from llm_chatgpt.text import as_sentence, in_words, printable
from llm_chatgpt.values import as_http_date, as_list, as_mapping, as_text

# The codes of a refusal by policy (P152, P178).
POLICY_CODES = frozenset(("cyber_policy", "bio_policy", "invalid_prompt", "moderation_blocked"))
POLICY_CODES |= {"misalignment_policy_violation"}
# The plugin's codes for errors to which the service gives none.
MODEL_NOT_FOUND = "model_not_found"
WEB_PAGE = "web_page"
WRONG_REGION = "wrong_region"
IMAGE_DOWNLOAD = "image_download_failed"
# The service's code for a refused schema of an answer. Some of these refusals come without it.
SCHEMA = "invalid_json_schema"
_PLAN_LIMIT = "usage_limit_reached"

# The texts, by the error's code (P176 to P195, P211); keys with a space are not codes. Each is a
# reason, then {sentence} or {message}, then an advice. Both add the first sentence of the service's
# message to the reason, after a colon; {message} also begins the advice with its other sentences.
_TEXTS = {
    "organization_usage_limit_exceeded": (
        "Your organization has used up its limit{message} Ask its admin to raise it. {manage}"
    ),
    "rate_limit_reset_ineligible": (
        "This account cannot use a banked reset{sentence} Wait until its limits reset."
    ),
    "usage_not_included": (
        "Your ChatGPT plan does not include Codex, which this login needs{sentence} Upgrade at "
        "https://chatgpt.com/#pricing, or run 'llm chatgpt login' with another account."
    ),
    "deactivated_workspace": (
        "The workspace of this login was deactivated{sentence} Run 'llm chatgpt login' with "
        "another account."
    ),
    MODEL_NOT_FOUND: '{message} Run: llm -m chatgpt-{successor}{key_option} "prompt"',
    "old version": (
        "{sentence} Update llm-chatgpt-oauth, or set LLM_CHATGPT_CLIENT_VERSION to a newer version."
    ),
    "context_length_exceeded": (
        "The conversation is longer than the model's context{size}{message} Start a new one, or "
        "send less."
    ),
    "refused by policy": "OpenAI's policies refuse this prompt{message} Rephrase it.",
    "server_is_overloaded": (
        "The model is at capacity{sentence} Try again in {wait}, or choose another model."
    ),
    "policy_capacity_unavailable": (
        "OpenAI has no capacity for this prompt{sentence} Try again in {wait}, or choose another "
        "model."
    ),
    "access_program_not_enabled": (
        "Your organization has not been admitted to an OpenAI access program{message} Ask its "
        "admin, or choose another model."
    ),
    "inference_hook_denied": (
        "A rule of your workspace refuses this prompt{message} Rephrase it, or ask your "
        "workspace's admin."
    ),
    "tool_collision": (
        "OpenAI cannot tell two tools apart{message} Leave one of them out, or rename it."
    ),
    "invalid_image_request": (
        "OpenAI cannot read an image{message} Leave it out, or convert it to PNG or JPEG."
    ),
    SCHEMA: "OpenAI refused the schema{message} Change it, or leave it out.",
    WRONG_REGION: (
        "{message} Set LLM_CHATGPT_RESIDENCY to your workspace's region (in use: {regions}), or "
        "ask its admin."
    ),
    "refused login": (
        "OpenAI no longer accepts this login{sentence} Run '{login_command}' to sign in again."
    ),
    "refused account": (
        "OpenAI refuses this account's request{sentence} {ask} or run '{login_command}' with "
        "another account."
    ),
    "large prompt": (
        "The prompt is too large for the server{sentence} Send less text or smaller attachments."
    ),
    "rate_limit_exceeded": "Too many requests{sentence} Wait {wait} and try again.",
    "server error": "OpenAI server error ({status}){sentence} Try again in {wait}.",
    "refused file": (
        "OpenAI refused the attached file{sentence} Files may not work with a ChatGPT login. Send "
        "the text with -f instead; for a PDF, run 'llm install llm-fragments-pdf' and use -f "
        "pdf:FILE."
    ),
    "unknown effort": "{message} Choose one with -o reasoning_effort.",
    # The official route's (P264 to P271).
    "usage_limit_exceeded": (
        "Your ChatGPT plan, or this app's share of it, is used up{message} {manage}"
    ),
    "workplace_individual_usage_limit_exceeded": (
        "You have reached the limit that your workspace set for you{message} Ask its admin to "
        "raise it. {manage}"
    ),
    "usage_unavailable": (
        "OpenAI cannot check your plan at the moment{sentence} Try again in {wait}."
    ),
    "user_not_eligible": (
        "OpenAI does not offer its official sign-in to this ChatGPT account{message} See "
        "{official_page}"
    ),
    "unsupported_capability": (
        "OpenAI's official sign-in does not support {param}{message} Leave it out."
    ),
    "route_not_supported": (
        "OpenAI does not serve this address with its official sign-in{message} Unset "
        "LLM_CHATGPT_API_URL, or update with 'llm install -U llm-chatgpt-oauth'."
    ),
    "chatpass_scope_not_authorized": (
        "This sign-in does not permit the use of your ChatGPT plan{message} Run '{login_command}' "
        "and allow it."
    ),
    "broken stream": "OpenAI could not finish the answer{message} Send the prompt again.",
    IMAGE_DOWNLOAD: "OpenAI refused the request{message}",
    "refused request": "OpenAI refused the request{message}",
    "unexplained refusal": "OpenAI refused the request (status {status}){message} Try again later.",
}
# Codes that share the text of another code (P189, P193, P195, P266, P270, P271).
_SAME_TEXT = {
    "insufficient_quota": _PLAN_LIMIT,
    "organization_spend_limit_exceeded": "organization_usage_limit_exceeded",
    "slow_down": "server_is_overloaded",
    "user_unavailable": "usage_unavailable",
    "invalid_user": "refused login",
    "chatpass_invalid_authorization_context": "chatpass_scope_not_authorized",
    **dict.fromkeys(POLICY_CODES, "refused by policy"),
}
# Errors with a text in _LIMITS are a UsageLimitReached. Those with a text in _TEMPORARY are a
# StreamFailed if they came inside a stream.
_LIMITS = {_PLAN_LIMIT, "organization_usage_limit_exceeded", "usage_not_included"}
_LIMITS |= {"usage_limit_exceeded", "workplace_individual_usage_limit_exceeded"}
_TEMPORARY = {"server_is_overloaded", "rate_limit_exceeded", "usage_unavailable", "broken stream"}
# The prefix of the official route's codes. Some have had "v2_" after it (P263).
_OFFICIAL_PREFIX = "subscription_sharing_"
# Texts for errors without a known code, by a phrase in the message (P176, P186, P177, P181, P109).
_BY_PHRASE = {
    "is not supported when using Codex": MODEL_NOT_FOUND,
    "Model not found": MODEL_NOT_FOUND,
    "requires a newer version": "old version",
    "not authorized in this region": WRONG_REGION,
    "Invalid schema for response_format": SCHEMA,
}
# Texts for a status without a known code (P180, P184, P187, P191).
_BY_STATUS = {
    401: "refused login",
    403: "refused account",
    413: "large prompt",
    429: "rate_limit_exceeded",
}
# Words about a file: its kind, a field, or its place in a message.
_FILE_WORDS = re.compile(
    r"(?<![a-z])(files?|filename|pdf|documents?)(?![a-z])|content(\[\d+\]|\.\d+\b)(?!\.image)",
    re.IGNORECASE,
)


class RefusedRequest(NamedTuple):
    """Facts about a refused request, for the message of the error.

    `tokens` were sent. `login_command` is for signing in again (None: the command without an
    account's name), `key_option` is the option of llm that names the login. `slug` is the requested
    model, `models` is the account's list. `has_files` says whether the prompt had files attached.
    """

    tokens: Tokens
    login_command: str | None = None
    key_option: str = ""
    slug: str = ""
    models: ModelList = ModelList()
    has_files: bool = False


def explain_refusal(
    reply: http.Reply, request: RefusedRequest, *, in_stream: bool = False
) -> ChatGPTError:
    """Build the error for a reply with an error status, or for an error inside a stream."""
    error = as_mapping(reply.data.get("error"))
    message = error_message(reply) or ""
    candidates = (reply.error_code, error.get("type"))
    codes = [c.lower().replace("_v2_", "_") for c in candidates if isinstance(c, str) and c]
    param = _refused_param(error, message)
    text_name = _choose_text(reply, codes, message, param, request.has_files)
    if in_stream and text_name in ("refused request", "unexplained refusal"):
        text_name = "broken stream"
    wait = _retry_after(reply, message)
    resets_at = reached_limit.limit_resets_at(error, reply.headers)
    if text_name == _PLAN_LIMIT:
        reason, advice = reached_limit.explain(reply.headers, error, message, resets_at)
    elif text_name == WEB_PAGE:
        reason, advice = reply.web_page_error
    else:
        facts = _request_facts(request) | {
            "status": str(reply.status),
            "wait": in_words(wait) if wait else "a minute",
            "param": param or "this",
            "manage": f"Manage usage: {config.USAGE_PAGE}",
            "official_page": config.OFFICIAL_PAGE,
        }
        sentences = as_sentence(message) if message else ""
        first, *further = re.split(r"(?<=[.!?]) ", sentences, maxsplit=1)
        problem, shown, next_step = re.split(r"\{(message|sentence)\}", _TEXTS[text_name])
        further = further if shown == "message" else []
        reason = ": ".join(filter(None, (problem.format(**facts), first)))
        reason = reason or f"OpenAI refused the request (status {reply.status})"
        advice = " ".join(filter(None, (*further, next_step.strip().format(**facts))))
    error_class: type[ChatGPTError] = RequestRefused
    if text_name in _LIMITS:
        error_class = UsageLimitReached
    elif in_stream and text_name in _TEMPORARY:
        error_class = StreamFailed
    plugin_codes = (MODEL_NOT_FOUND, WEB_PAGE, WRONG_REGION, SCHEMA, IMAGE_DOWNLOAD)
    request_id = reply.headers.get("x-request-id") or reply.headers.get("x-oai-request-id")
    refusal = error_class(
        as_sentence(reason),
        advice,
        code=text_name if text_name in plugin_codes else next(iter(codes), None),
        request_id=printable(request_id, 80) if request_id else None,
    )
    refusal.param = param
    refusal.status = None if in_stream else reply.status
    refusal.retry_after = wait
    refusal.date = as_http_date(reply.headers.get("date"))
    is_unauthorized = reply.status == 401 and text_name != WRONG_REGION
    refusal.tokens_refused = text_name == "refused login" or is_unauthorized
    if isinstance(refusal, UsageLimitReached):
        of_plan = _PLAN_LIMIT in codes
        refusal.resettable = of_plan and not reached_limit.is_workspace_limit(reply.headers)
        refusal.resets_at = resets_at
    return refusal


def explain_stream_error(
    error: Mapping[str, Any], headers: Mapping[str, str], request: RefusedRequest
) -> ChatGPTError:
    """Build the error for a failure that was reported inside a stream (P166, P167)."""
    # In a flat event, `type` is the event's type, not the error's (P167).
    fields = {
        name: value
        for name, value in error.items()
        if isinstance(value, (str, int, float)) and (name, value) != ("type", "error")
    }
    content = json.dumps({"error": fields}).encode()
    return explain_refusal(http.Reply(200, headers, content), request, in_stream=True)


def _choose_text(
    reply: http.Reply, codes: Sequence[str], message: str, param: str | None, has_files: bool
) -> str:
    """Choose the name of the text; the more specific ones come first."""
    if reached_limit.is_workspace_limit(reply.headers):
        return _PLAN_LIMIT
    for code in (code.removeprefix(_OFFICIAL_PREFIX) for code in codes):
        if (name := _SAME_TEXT.get(code, code)) in (_PLAN_LIMIT, *_TEXTS):
            return name
    if reply.is_web_page and reply.status < 500:
        return WEB_PAGE
    for phrase, name in _BY_PHRASE.items():
        if phrase in message:
            return name
    if reply.status >= 500:
        return "server error"
    if reply.status == 400:
        if param == "reasoning.effort":  # P99
            return "unknown effort"
        if "download" in message.lower():  # P106
            return IMAGE_DOWNLOAD
        if (param or "").startswith(("text.format", "response_format")):  # P109
            return SCHEMA
        if has_files and _FILE_WORDS.search(" ".join([message, param or "", *codes])):  # P111
            return "refused file"
    return _BY_STATUS.get(reply.status) or ("refused request" if message else "unexplained refusal")


def _request_facts(request: RefusedRequest) -> dict[str, str]:
    """Return the facts about the request and its login that the texts can mention."""
    tokens, slug, models = request.tokens, request.slug, request.models
    model = models.find(slug)
    size = model.context_window if model else None
    is_personal = reached_limit.is_personal(tokens.plan)
    return {
        "login_command": request.login_command or tokens.route.login_command(),
        "key_option": request.key_option,
        "regions": ", ".join(map(printable, residencies(tokens))) or "none",
        "ask": "Try again later," if is_personal else "Ask your workspace's admin,",
        "successor": successor(slug, models),
        "size": f" of {size:,} tokens" if size else "",
    }


# The part that a message names: a parameter (P84, P96), a header, or an item of the input by its
# place (P104, P105), its id (P102), its address (P106) or its type.
_NAMED_PART = re.compile(
    r"(?:Unsupported parameter|Unexpected header): '?([\w.-]+)|(Instructions) are required"
    r"|\b(input\[\d+\][\w.\[\]]*)|Item with id '?([\w-]+)"
    r"|ownload.*?(https://[^\s'\"]*[^\s'\".,)])"
    r"|\b(web_search_call|configuration_update)\b(?!\.\w)"
)


def _refused_param(error: Mapping[str, Any], message: str) -> str | None:
    """Return the refused part of the request: `param`, or a more specific name in the message."""
    param = as_text(error.get("param"))
    named = _NAMED_PART.search(message)
    if named and param in (None, "input", "url"):
        param = next(filter(None, named.groups()))
        param = "instructions" if param == "Instructions" else param
    return printable(param) if param else None


def error_message(reply: http.Reply) -> str | None:
    """Return the server's message, made printable, from `error`, `detail` or `message` (P174)."""
    data = reply.data
    error, detail = data.get("error"), data.get("detail")
    entries = [
        f"{'.'.join(map(str, as_list(entry.get('loc'))))}: {entry.get('msg') or entry.get('type')}"
        for entry in map(as_mapping, as_list(detail))
        if entry
    ]
    texts = [as_mapping(error).get("message"), error, as_mapping(detail).get("message"), detail]
    texts += ["; ".join(entries), data.get("message")]
    return next((printable(t) for t in texts if isinstance(t, str) and t.strip()), None)


def _retry_after(reply: http.Reply, message: str) -> float | None:
    """Return the seconds to wait, from Retry-After or from an error inside a stream (P196).

    Invalid values such as `inf` are ignored.
    """
    match = re.search(r"try again in (\d+(?:\.\d+)?) ?(ms|s\b|second)", message, re.IGNORECASE)
    if reply.status == 200 and match:
        return float(match[1]) / (1000 if match[2].lower() == "ms" else 1)
    header = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header):
        return float(header)
    moment = as_http_date(header)
    return None if moment is None else max(0.0, moment - time.time())
