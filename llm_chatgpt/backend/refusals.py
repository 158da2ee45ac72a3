"""Explain the service's errors: what happened, and the next step.

`_TEXTS` has a text for every kind of error. A reply's code, words or status choose it; the facts
are in docs/protocol.md, "Errors" and "Official errors". Nothing here sends or decides to send
again: callers go by the error's class and fields.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_chatgpt import config, http
from llm_chatgpt.backend import reached_limit
from llm_chatgpt.backend.catalogue import ModelList, successor
from llm_chatgpt.errors import ChatGPTError, RequestRefused, StreamFailed, UsageLimitReached
from llm_chatgpt.login.tokens import Tokens, residencies
from llm_chatgpt.text import in_words, printable
from llm_chatgpt.values import as_http_date, as_list, as_mapping, as_text

POLICY_CODES = frozenset(("cyber_policy", "bio_policy", "invalid_prompt", "moderation_blocked"))
POLICY_CODES |= {"misalignment_policy_violation"}
# Codes for errors that the service marks with none.
MODEL_NOT_FOUND = "model_not_found"
WEB_PAGE = "web_page"
WRONG_REGION = "wrong_region"
IMAGE_DOWNLOAD = "image_download_failed"
# The service's own code for the schema of an answer, which not every such refusal has.
SCHEMA = "invalid_json_schema"
_PLAN_LIMIT = "usage_limit_reached"


class _Text(NamedTuple):
    """The text of an error, and its kind.

    {words} are the server's own words after a colon, {first} only their first sentence, {more} the
    others; the first two are a full stop if it said nothing. {wait} is how long to wait. A limit
    becomes a UsageLimitReached, a passing error inside a stream a StreamFailed.
    """

    reason: str
    advice: str = ""
    is_limit: bool = False
    is_passing: bool = False


# By the service's codes; texts that no code chooses have names with a space.
_TEXTS = {
    _PLAN_LIMIT: _Text(
        "The {window}usage limit of your ChatGPT {plan}plan is reached{words}{reset}",
        f"{{options}} {config.USAGE_PAGE}",
        is_limit=True,
    ),
    "organization_usage_limit_exceeded": _Text(
        "Your organization has used up its limit{words}",
        f"Ask its admin to raise it. Manage usage: {config.USAGE_PAGE}",
        is_limit=True,
    ),
    "rate_limit_reset_ineligible": _Text(
        "This account cannot use a banked reset{first}", "Wait until its limits reset."
    ),
    "usage_not_included": _Text(
        "Your ChatGPT plan does not include Codex, which this login needs.",
        "Upgrade at https://chatgpt.com/#pricing, or run 'llm chatgpt login' with another account.",
        is_limit=True,
    ),
    "deactivated_workspace": _Text(
        "The workspace of this login was deactivated.",
        "Run 'llm chatgpt login' with another account.",
    ),
    WEB_PAGE: _Text("{web_page}", "{web_page_advice}"),
    MODEL_NOT_FOUND: _Text("{sentence}", 'Run: llm -m chatgpt-{successor}{key_option} "prompt"'),
    "old version": _Text(
        "{sentence}",
        "Update llm-chatgpt-oauth, or set LLM_CHATGPT_CLIENT_VERSION to a newer version.",
    ),
    "context_length_exceeded": _Text(
        "The conversation is longer than the model's context{size}{words}",
        "Start a new one, or send less.",
    ),
    "refused by policy": _Text("OpenAI's policies refuse this prompt{words}", "Rephrase it."),
    "server_is_overloaded": _Text(
        "The model is at capacity{first}",
        "Try again in {wait}, or choose another model.",
        is_passing=True,
    ),
    "policy_capacity_unavailable": _Text(
        "OpenAI has no capacity for this prompt{first}",
        "Try again in {wait}, or choose another model.",
    ),
    "access_program_not_enabled": _Text(
        "Your organization has not been admitted to an OpenAI access program{words}",
        "Ask its admin, or choose another model.",
    ),
    "inference_hook_denied": _Text(
        "A rule of your workspace refuses this prompt{words}",
        "Rephrase it, or ask your workspace's admin.",
    ),
    "tool_collision": _Text(
        "OpenAI cannot tell two tools apart{words}", "Leave one of them out, or rename it."
    ),
    "invalid_image_request": _Text(
        "OpenAI cannot read an image{words}", "Leave it out, or convert it to PNG or JPEG."
    ),
    SCHEMA: _Text("OpenAI refused the schema{words}", "Change it, or leave it out."),
    WRONG_REGION: _Text(
        "{sentence}",
        "Set LLM_CHATGPT_RESIDENCY to your workspace's region (sent: {regions}), or ask its admin.",
    ),
    "refused login": _Text(
        "OpenAI no longer accepts this login{first}", "Run '{login}' to sign in again."
    ),
    "refused account": _Text(
        "OpenAI refuses this account's request{first}",
        "{ask} or run '{login}' with another account.",
    ),
    "large prompt": _Text(
        "The prompt is too large for the server.", "Send less text or smaller attachments."
    ),
    "rate_limit_exceeded": _Text(
        "Too many requests{first}", "Wait {wait} and try again.", is_passing=True
    ),
    "server error": _Text("OpenAI server error ({status}){first}", "Try again in {wait}."),
    "refused file": _Text(
        "OpenAI refused the attached file{first}",
        "Files may not work with a ChatGPT login. Send the text with -f instead; for a PDF, run "
        "'llm install llm-fragments-pdf' and use -f pdf:FILE.",
    ),
    "unknown effort": _Text("{sentence}", "Choose one with -o reasoning_effort."),
    # The official route's.
    "usage_limit_exceeded": _Text(
        "Your ChatGPT plan, or this app's share of it, is used up{words}",
        f"Manage usage: {config.USAGE_PAGE}",
        is_limit=True,
    ),
    "workplace_individual_usage_limit_exceeded": _Text(
        "You have reached the limit that your workspace set for you{words}",
        f"Ask its admin to raise it. Manage usage: {config.USAGE_PAGE}",
        is_limit=True,
    ),
    "usage_unavailable": _Text(
        "OpenAI cannot check your plan at the moment{first}",
        "Try again in {wait}.",
        is_passing=True,
    ),
    "user_not_eligible": _Text(
        "OpenAI does not offer its official sign-in to this ChatGPT account{words}",
        f"See {config.OFFICIAL_PAGE}",
    ),
    "unsupported_capability": _Text(
        "OpenAI's official sign-in does not support {param}{words}", "Leave it out."
    ),
    "route_not_supported": _Text(
        "OpenAI does not serve this address with its official sign-in{words}",
        "Unset LLM_CHATGPT_API_URL, or update with 'llm install -U llm-chatgpt-oauth'.",
    ),
    "chatpass_scope_not_authorized": _Text(
        "This sign-in does not permit the use of your ChatGPT plan{words}",
        "Run '{login}' and allow it.",
    ),
    "broken stream": _Text(
        "OpenAI could not finish the answer{first}",
        "{more}Send the prompt again.",
        is_passing=True,
    ),
    IMAGE_DOWNLOAD: _Text("OpenAI refused the request{words}"),
    "refused request": _Text("OpenAI refused the request{words}"),
    "unexplained refusal": _Text(
        "OpenAI refused the request (status {status}).", "Try again later."
    ),
}
# Codes that share a text with another one.
_SAME_TEXT = {
    "insufficient_quota": _PLAN_LIMIT,
    "organization_spend_limit_exceeded": "organization_usage_limit_exceeded",
    "slow_down": "server_is_overloaded",
    "user_unavailable": "usage_unavailable",
    "invalid_user": "refused login",
    "chatpass_invalid_authorization_context": "chatpass_scope_not_authorized",
    **dict.fromkeys(POLICY_CODES, "refused by policy"),
}
# The prefix of the official route's codes. Some have had "v2_" after it.
_SHARING = "subscription_sharing_"
_BY_WORDS = {
    "is not supported when using Codex": MODEL_NOT_FOUND,
    "Model not found": MODEL_NOT_FOUND,
    "requires a newer version": "old version",
    "not authorized in this region": WRONG_REGION,
}
_BY_STATUS = {
    401: "refused login",
    403: "refused account",
    413: "large prompt",
    429: "rate_limit_exceeded",
}
# Words about the schema of an answer, not of a tool.
_OF_SCHEMA = re.compile(r"(?!.*\b(function|tool))(.*[^a-z])?schema\b", re.IGNORECASE | re.DOTALL)
# Words about a file: its kind, a field, or its place in a message.
_OF_FILES = re.compile(
    r"(?<![a-z])(files?|filename|pdf|documents?)(?![a-z])|content(\[\d+\]|\.\d+\b)(?!\.image)",
    re.IGNORECASE,
)


class RefusedRequest(NamedTuple):
    """The facts about a refused request that the text of its error tells.

    `tokens` were sent. `login` is the command that signs in again (None: without an account's
    name), `key_option` the option of llm that names the login. `both_regions` says that the
    login's second region was tried, too. `slug` is the requested model, `models` are those of the
    account. `has_files` says that the prompt had files attached.
    """

    tokens: Tokens
    login: str | None = None
    key_option: str = ""
    both_regions: bool = False
    slug: str = ""
    models: ModelList | None = None
    has_files: bool = False


def explain_refusal(
    reply: http.Reply, request: RefusedRequest, *, in_stream: bool = False
) -> ChatGPTError:
    """Build the error for a reply that is no answer, or that a stream reported."""
    error = as_mapping(as_mapping(reply.data).get("error"))
    message = error_message(reply) or ""
    names = (reply.error_code, error.get("type"))
    codes = [c.lower().replace("_v2_", "_") for c in names if isinstance(c, str) and c]
    param = _refused_param(error, message)
    name = _choose_text(reply, codes, message, param, request.has_files)
    if in_stream and name in ("refused request", "unexplained refusal"):
        name = "broken stream"
    text = _TEXTS[name]
    wait = retry_after(reply, message)
    resets_at = reached_limit.moment_of_reset(error, reply.headers if name == _PLAN_LIMIT else {})
    facts = _server_words(reply, message) | _request_facts(request)
    facts |= {
        "status": str(reply.status),
        "wait": in_words(wait) if wait else "a minute",
        "param": param or "this",
    }
    if name == _PLAN_LIMIT:
        facts |= reached_limit.describe(reply.headers, error, message, resets_at)
    kind: type[ChatGPTError] = RequestRefused
    if text.is_limit:
        kind = UsageLimitReached
    elif in_stream and text.is_passing:
        kind = StreamFailed
    request_id = reply.headers.get("x-request-id") or reply.headers.get("x-oai-request-id")
    has_own_code = name in (MODEL_NOT_FOUND, WEB_PAGE, WRONG_REGION, SCHEMA, IMAGE_DOWNLOAD)
    refusal = kind(
        text.reason.format(**facts),
        text.advice.format(**facts),
        code=name if has_own_code else next(iter(codes), None),
        param=param,
        status=None if in_stream else reply.status,
        retry_after=wait,
        date=as_http_date(reply.headers.get("date")),
        request_id=printable(request_id, 80) if request_id else None,
        tokens_refused=name == "refused login" or (reply.status == 401 and name != WRONG_REGION),
    )
    if isinstance(refusal, UsageLimitReached):
        of_plan = _PLAN_LIMIT in codes
        refusal.resettable = of_plan and not reached_limit.of_workspace(reply.headers)
        refusal.resets_at = resets_at
    return refusal


def _request_facts(request: RefusedRequest) -> dict[str, str]:
    """Return the facts that the texts tell about the request and its login."""
    tokens, slug, models = request.tokens, request.slug, request.models
    model = models.find(slug) if models else None
    size = model.context_window if model else None
    regions = residencies(tokens)[: 2 if request.both_regions else 1]
    is_personal = tokens.plan in reached_limit.PERSONAL_PLANS
    return {
        "login": request.login or tokens.route.login_command(),
        "key_option": request.key_option,
        "regions": ", ".join(map(printable, regions)) or "none",
        "ask": "Try again later," if is_personal else "Ask your workspace's admin,",
        "successor": successor(slug, models),
        "size": f" of {size:,} tokens" if size else "",
    }


def _server_words(reply: http.Reply, message: str) -> dict[str, str]:
    """Return the server's words in each form that the texts use."""
    first, *more = re.split(r"(?<=[.!?]) ", message, maxsplit=1)
    web_page, web_page_advice = reply.web_page_advice
    return {
        "sentence": _after_colon(message)[2:],
        "words": _after_colon(message),
        "first": _after_colon(first),
        "more": "".join(f"{words} " for words in more),
        "web_page": web_page,
        "web_page_advice": web_page_advice,
    }


# The part that a message names: a parameter, a header, the place of an item in the input, an
# address, or an item's type.
_NAMED_PART = re.compile(
    r"(?:Unsupported parameter|Unexpected header): '?([\w.-]+)|(Instructions) are required"
    r"|\b(input\[\d+\][\w.\[\]]*)|(https://[^\s'\"]*[^\s'\".,)])"
    r"|\b(web_search_call|configuration_update)\b(?!\.)"
)


def _refused_param(error: Mapping[str, Any], message: str) -> str | None:
    """Return the part of the request that is refused: `param`, or what the message names if that
    is more specific."""
    param = as_text(error.get("param"))
    named = _NAMED_PART.search(message)
    if named and param in (None, "input", "url"):
        param = next(filter(None, named.groups()))
        param = "instructions" if param == "Instructions" else param
    return printable(param) if param else None


def explain_stream_error(
    error: Mapping[str, Any], headers: Mapping[str, str], request: RefusedRequest
) -> ChatGPTError:
    """Build the error that was reported inside a stream."""
    # A flat event's own type is not the error's.
    fields = {
        name: value
        for name, value in error.items()
        if isinstance(value, (str, int, float)) and (name, value) != ("type", "error")
    }
    content = json.dumps({"error": fields}).encode()
    return explain_refusal(http.Reply(200, headers, content), request, in_stream=True)


def _choose_text(
    reply: http.Reply, codes: list[str], message: str, param: str | None, has_files: bool
) -> str:
    """Choose the name of the text; the more specific ones come first."""
    if reached_limit.of_workspace(reply.headers):
        return _PLAN_LIMIT
    for code in (code.removeprefix(_SHARING) for code in codes):
        if (name := _SAME_TEXT.get(code, code)) in _TEXTS:
            return name
    if reply.is_web_page and reply.status < 500:
        return WEB_PAGE
    for words, name in _BY_WORDS.items():
        if words in message:
            return name
    if reply.status >= 500:
        return "server error"
    if reply.status == 400 and param == "reasoning.effort" and message:
        return "unknown effort"
    if reply.status == 400 and "download" in message.lower():
        return IMAGE_DOWNLOAD
    about_format = (param or "").startswith(("text.format", "response_format"))
    if reply.status == 400 and (about_format or _OF_SCHEMA.match(message)):
        return SCHEMA
    words = " ".join([message, param or "", *codes])
    if reply.status == 400 and has_files and _OF_FILES.search(words):
        return "refused file"
    return _BY_STATUS.get(reply.status) or ("refused request" if message else "unexplained refusal")


def error_message(reply: http.Reply) -> str | None:
    """Return the server's own words, made printable: `error`, `detail` or `message`."""
    data = as_mapping(reply.data)
    error, detail = data.get("error"), data.get("detail")
    entries = (
        f"{'.'.join(map(str, as_list(entry.get('loc'))))}: {entry.get('msg') or entry.get('type')}"
        for entry in as_list(detail)
        if isinstance(entry, dict)
    )
    places = (
        as_mapping(error).get("message"),
        data.get("error_description"),
        error,
        detail,
        as_mapping(detail).get("message"),
        "; ".join(entries),
        data.get("message"),
    )
    return next((printable(t) for t in places if isinstance(t, str) and t.strip()), None)


def _after_colon(words: str) -> str:
    """End a sentence with these words: ': It failed.', or only '.' if there are none."""
    if not words:
        return "."
    return f": {words}" if words.endswith((".", "!", "?")) else f": {words}."


def retry_after(reply: http.Reply, message: str) -> float | None:
    """Return how many seconds the server asks to wait: Retry-After, or a stream's message."""
    header = reply.headers.get("retry-after", "").strip()
    words = re.search(r"try again in (\d+(?:\.\d+)?) ?(ms|s\b|second)", message, re.IGNORECASE)
    seconds = None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header):
        seconds = float(header)
    elif header:
        moment = as_http_date(header)
        seconds = None if moment is None else moment - time.time()
    if reply.status == 200 and words:
        seconds = float(words[1]) / (1000 if words[2].lower() == "ms" else 1)
    return None if seconds is None else max(0.0, seconds)
