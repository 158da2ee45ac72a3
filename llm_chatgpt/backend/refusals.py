"""What the service's errors mean, in one sentence with the next step."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from llm_chatgpt import config, http
from llm_chatgpt.backend import limits
from llm_chatgpt.backend.catalogue import BUILT_IN_MODELS, ModelList
from llm_chatgpt.errors import ChatGPTError, RequestRefused, StreamFailed, UsageLimitReached
from llm_chatgpt.login.tokens import Tokens, residencies
from llm_chatgpt.text import in_words, printable
from llm_chatgpt.values import as_http_date, as_list, as_mapping, as_text

POLICY_CODES = frozenset(
    {
        *("cyber_policy", "bio_policy", "misalignment_policy_violation"),
        *("invalid_prompt", "moderation_blocked"),
    }
)
# What the codes of the official route begin with.
_SHARING = "subscription_sharing_"
# Codes of our own, for what the service marks with none.
MODEL_NOT_FOUND = "model_not_found"
WEB_PAGE = "web_page"
WRONG_REGION = "wrong_region"
# The service's own code for the schema of an answer, which not every such refusal has.
SCHEMA = "invalid_json_schema"
# Four tables: a reply's code, words or status choose its text. Facts: docs/protocol.md.
_BY_CODE = {
    "usage_limit_reached": "limit",
    "insufficient_quota": "limit",
    "organization_usage_limit_exceeded": "organization_limit",
    "organization_spend_limit_exceeded": "organization_limit",
    "policy_capacity_unavailable": "policy_capacity",
    "access_program_not_enabled": "access_program",
    "inference_hook_denied": "hook",
    "tool_collision": "tool_names",
    SCHEMA: SCHEMA,
    "invalid_image_request": "image",
    "usage_not_included": "not_included",
    "deactivated_workspace": "deactivated",
    "context_length_exceeded": "context",
    "server_is_overloaded": "capacity",
    "slow_down": "capacity",
    "rate_limit_exceeded": "too_many",
    "rate_limit_reset_ineligible": "ineligible",
    **dict.fromkeys(POLICY_CODES, "policy"),
    # The official route's. Some have had "v2_" in the middle.
    f"{_SHARING}usage_limit_exceeded": "app_limit",
    f"{_SHARING}workplace_individual_usage_limit_exceeded": "workplace_limit",
    f"{_SHARING}usage_unavailable": "unavailable",
    f"{_SHARING}user_unavailable": "unavailable",
    f"{_SHARING}user_not_eligible": "not_eligible",
    f"{_SHARING}unsupported_capability": "unsupported",
    f"{_SHARING}route_not_supported": "wrong_route",
    f"{_SHARING}invalid_user": "login",
    "chatpass_scope_not_authorized": "not_granted",
    "chatpass_invalid_authorization_context": "not_granted",
}
_BY_WORDS = {
    "is not supported when using Codex": MODEL_NOT_FOUND,
    "Model not found": MODEL_NOT_FOUND,
    "requires a newer version": "too_old",
    "not authorized in this region": WRONG_REGION,
}
# Words about the schema of an answer, not about that of a tool.
_OF_SCHEMA = re.compile(r"(?!.*\b(function|tool))(.*[^a-z])?schema\b", re.IGNORECASE | re.DOTALL)
# How the service speaks of a file: by its kind, a field, or its place in a message.
_OF_FILES = re.compile(
    r"(?<![a-z])(files?|filename|pdf|documents?)(?![a-z])|content(\[\d+\]|\.\d+\b)(?!\.image)",
    re.IGNORECASE,
)
_BY_STATUS = {401: "login", 403: "forbidden", 413: "too_large", 429: "too_many"}
# Inside a stream, too, these are not sent again as they are.
_FINAL = (
    *("login", "not_eligible", "unsupported", "wrong_route", "not_granted", "policy_capacity"),
    *("access_program", "hook", "tool_names", "image"),
)
_LIMITS = ("limit", "not_included", "organization_limit", "app_limit", "workplace_limit")
# For each text, the reason and the next step. {words} are the server's own words after a
# colon, {first} only their first sentence, {more} the others; the first two are a full stop if
# it said nothing. {wait} is how long to wait.
_TEXTS: dict[str, tuple[str, str]] = {
    "limit": (
        "The {window}usage limit of your ChatGPT {plan}plan is reached{words}{reset}",
        f"{{options}} {config.USAGE_PAGE}",
    ),
    "organization_limit": (
        "Your organization has used up its limit{words}",
        f"Ask its admin to raise it. Manage usage: {config.USAGE_PAGE}",
    ),
    "ineligible": (
        "This account cannot use a banked reset{first}",
        "Wait until its limits reset.",
    ),
    "not_included": (
        "Your ChatGPT plan does not include Codex, which this login needs.",
        "Upgrade at https://chatgpt.com/#pricing, or run 'llm chatgpt login' with another account.",
    ),
    "deactivated": (
        "The workspace of this login was deactivated.",
        "Run 'llm chatgpt login' with another account.",
    ),
    WEB_PAGE: ("{web_page}", "{web_page_advice}"),
    MODEL_NOT_FOUND: ("{sentence}", 'Run: llm -m chatgpt-{successor}{key_option} "prompt"'),
    "too_old": (
        "{sentence}",
        "Update llm-chatgpt-oauth, or set LLM_CHATGPT_CLIENT_VERSION to a newer version.",
    ),
    "context": (
        "The conversation is longer than the model's context{size}{words}",
        "Start a new one, or send less.",
    ),
    "policy": ("OpenAI's policies refuse this prompt{words}", "Rephrase it."),
    "capacity": (
        "The model is at capacity{first}",
        "Try again in {wait}, or choose another model.",
    ),
    "policy_capacity": (
        "OpenAI has no capacity for this prompt{first}",
        "Try again in {wait}, or choose another model.",
    ),
    "access_program": (
        "Your organization has not been admitted to an OpenAI access program{words}",
        "Ask its admin, or choose another model.",
    ),
    "hook": (
        "A rule of your workspace refuses this prompt{words}",
        "Rephrase it, or ask your workspace's admin.",
    ),
    "tool_names": (
        "OpenAI cannot tell two tools apart{words}",
        "Leave one of them out, or rename it.",
    ),
    "image": (
        "OpenAI cannot read an image{words}",
        "Leave it out, or convert it to PNG or JPEG.",
    ),
    SCHEMA: ("OpenAI refused the schema{words}", "Change it, or leave it out."),
    WRONG_REGION: (
        "{sentence}",
        "Set LLM_CHATGPT_RESIDENCY to your workspace's region (sent: {regions}), or ask its admin.",
    ),
    "login": (
        "OpenAI no longer accepts this login{first}",
        "Run '{login}' to sign in again.",
    ),
    "forbidden": (
        "OpenAI refuses this account's request{first}",
        "{ask} or run '{login}' with another account.",
    ),
    "too_large": (
        "The prompt is too large for the server.",
        "Send less text or smaller attachments.",
    ),
    "too_many": ("Too many requests{first}", "Wait {wait} and try again."),
    "server": ("OpenAI server error ({status}){first}", "Try again in {wait}."),
    "file": (
        "OpenAI refused the attached file{first}",
        "Files may not work with a ChatGPT login. Send the text with -f instead; for a PDF, run "
        "'llm install llm-fragments-pdf' and use -f pdf:FILE.",
    ),
    "effort": ("{sentence}", "Choose one with -o reasoning_effort."),
    "app_limit": (
        "Your ChatGPT plan, or this app's share of it, is used up{words}",
        f"Manage usage: {config.USAGE_PAGE}",
    ),
    "workplace_limit": (
        "You have reached the limit that your workspace set for you{words}",
        f"Ask its admin to raise it. Manage usage: {config.USAGE_PAGE}",
    ),
    "unavailable": (
        "OpenAI cannot check your plan at the moment{first}",
        "Try again in {wait}.",
    ),
    "not_eligible": (
        "OpenAI does not offer its official sign-in to this ChatGPT account{words}",
        f"See {config.OFFICIAL_PAGE}",
    ),
    "unsupported": (
        "OpenAI's official sign-in does not support {param}{words}",
        "Leave it out.",
    ),
    "wrong_route": (
        "OpenAI does not serve this address with its official sign-in{words}",
        "Unset LLM_CHATGPT_API_URL, or update with 'llm install -U llm-chatgpt-oauth'.",
    ),
    "not_granted": (
        "This sign-in does not permit the use of your ChatGPT plan{words}",
        "Run '{login}' and allow it.",
    ),
    "stream": ("OpenAI could not finish the answer{first}", "{more}Send the prompt again."),
    "refused": ("OpenAI refused the request{words}", ""),
    "unexplained": ("OpenAI refused the request (status {status}).", "Try again later."),
}


def explain_refusal(
    reply: http.Reply,
    tokens: Tokens,
    *,
    login: str | None = None,
    key_option: str = "",
    both_regions: bool = False,
    slug: str = "",
    models: ModelList | None = None,
    files: bool = False,
    in_stream: bool = False,
) -> ChatGPTError:
    """The error for a reply that is no answer, or with `in_stream` for one that a stream reported.

    `tokens` were sent. `login` is the command that signs in again (None: without an account's
    name), `key_option` the option of llm that names the login. `both_regions` says that the
    login's second region was tried, too. `slug` is the model that was asked, `models` what the
    account has, `files` whether the prompt had any.
    """
    error = as_mapping(as_mapping(reply.data).get("error"))
    said = error_message(reply) or ""
    names = (reply.error_code, error.get("type"))
    codes = [c.lower().replace("_v2_", "_") for c in names if isinstance(c, str) and c]
    param = _refused_param(error, said)
    text = _choose_text(reply, codes, said, param, files)
    if in_stream and text in ("refused", "unexplained"):
        text = "stream"
    wait = retry_after(reply, said)
    regions = residencies(tokens)[: 2 if both_regions else 1]
    facts = _words(reply, said) | {
        "status": str(reply.status),
        "login": login or tokens.route.login_command(),
        "wait": in_words(wait) if wait else "a minute",
        "param": param or "this",
        "regions": ", ".join(map(printable, regions)) or "none",
        "key_option": key_option,
        "ask": "Try again later,"
        if tokens.plan in limits.PERSONAL_PLANS
        else "Ask your workspace's admin,",
    }
    resets_at = limits.moment_of_reset(error, reply.headers if text == "limit" else {})
    if text == "limit":
        facts |= limits.describe(reply.headers, error, said, resets_at)
    elif text == MODEL_NOT_FOUND:
        facts["successor"] = _successor(slug, models)
    elif text == "context":
        model = models.find(slug) if models else None
        size = model.context_window if model else None
        facts["size"] = f" of {size:,} tokens" if size else ""
    reason, advice = (sentence.format(**facts) for sentence in _TEXTS[text])
    request_id = reply.headers.get("x-request-id") or reply.headers.get("x-oai-request-id")
    broken = in_stream and text not in _FINAL
    kind: type[ChatGPTError] = StreamFailed if broken else RequestRefused
    if text in _LIMITS:
        kind = UsageLimitReached
    ours = text if text in (MODEL_NOT_FOUND, WEB_PAGE, WRONG_REGION, SCHEMA) else None
    refusal = kind(
        reason,
        advice,
        code=ours or next(iter(codes), None),
        param=param,
        status=None if in_stream else reply.status,
        retry_after=wait,
        date=as_http_date(reply.headers.get("date")),
        request_id=printable(request_id, 80) if request_id else None,
        tokens_refused=text == "login" or (reply.status == 401 and text != WRONG_REGION),
    )
    if isinstance(refusal, UsageLimitReached):
        of_plan = "usage_limit_reached" in codes
        refusal.resettable = of_plan and not limits.of_workspace(reply.headers)
        refusal.resets_at = resets_at
    return refusal


def _words(reply: http.Reply, said: str) -> dict[str, str]:
    """The server's words in the forms that the texts take them in."""
    first, *more = re.split(r"(?<=[.!?]) ", said, maxsplit=1)
    web_page, web_page_advice = reply.web_page_advice
    return {
        "sentence": _colon(said)[2:],
        "words": _colon(said),
        "first": _colon(first),
        "more": "".join(f"{words} " for words in more),
        "web_page": web_page,
        "web_page_advice": web_page_advice,
    }


def _refused_param(error: Mapping[str, Any], said: str) -> str | None:
    """The part of the request that the service refuses: `param`, or as its words name it."""
    named = re.match(
        r"(?:Unsupported parameter|Unexpected header): '?([\w.-]+)|(Instructions) are required",
        said,
    )
    words = (named[1] or named[2].lower()) if named else None
    param = as_text(error.get("param")) or words
    return printable(param, 100) if param else None


def explain_stream_error(
    error: Mapping[str, Any], headers: Mapping[str, str], tokens: Tokens, **known: Any
) -> ChatGPTError:
    """`explain_refusal` for an error that was reported inside a stream."""
    # A flat event's own type is not the error's.
    fields = {
        name: value
        for name, value in error.items()
        if isinstance(value, (str, int, float)) and (name, value) != ("type", "error")
    }
    content = json.dumps({"error": fields}).encode()
    return explain_refusal(http.Reply(200, headers, content), tokens, **known, in_stream=True)


def _choose_text(
    reply: http.Reply, codes: list[str], said: str, param: str | None, files: bool
) -> str:
    """Which of the texts fits; what is more specific comes first."""
    if limits.of_workspace(reply.headers):
        return "limit"
    if found := next((_BY_CODE[code] for code in codes if code in _BY_CODE), None):
        return found
    if reply.is_web_page and reply.status < 500:
        return WEB_PAGE
    if found := next((text for words, text in _BY_WORDS.items() if words in said), None):
        return found
    if reply.status >= 500:
        return "server"
    if reply.status == 400 and param == "reasoning.effort" and said:
        return "effort"
    about_format = (param or "").startswith(("text.format", "response_format"))
    if reply.status == 400 and (about_format or _OF_SCHEMA.match(said)):
        return SCHEMA
    if reply.status == 400 and files and _OF_FILES.search(" ".join([said, param or "", *codes])):
        return "file"
    return _BY_STATUS.get(reply.status) or ("refused" if said else "unexplained")


def error_message(reply: http.Reply) -> str | None:
    """The server's own words, made printable: `error`, `detail` or `message` in all forms."""
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


def _colon(words: str) -> str:
    """Words as the end of a sentence: ': It failed.', or only '.' without any."""
    if not words:
        return "."
    return f": {words}" if words.endswith((".", "!", "?")) else f": {words}."


def retry_after(reply: http.Reply, said: str) -> float | None:
    """The seconds that the server asks to wait: Retry-After, or inside a stream its words."""
    header = reply.headers.get("retry-after", "").strip()
    words = re.search(r"try again in (\d+(?:\.\d+)?) ?(ms|s\b|second)", said, re.IGNORECASE)
    seconds = None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header):
        seconds = float(header)
    elif header:
        moment = as_http_date(header)
        seconds = None if moment is None else moment - time.time()
    if reply.status == 200 and words:
        seconds = float(words[1]) / (1000 if words[2].lower() == "ms" else 1)
    return None if seconds is None else max(0.0, seconds)


def _successor(slug: str, models: ModelList | None) -> str:
    """Another model to try: the one that a list names for this one, else the first choice.

    Only one that the account's list has; without a list, one that is built in.
    """
    known = [model.slug for model in models.listed] if models else []
    known = known or list(BUILT_IN_MODELS)
    named = [models.find(slug) if models else None, BUILT_IN_MODELS.get(slug)]
    upgrades = [model.upgrade for model in named if model and model.upgrade in known]
    candidates = [*upgrades, *known, *BUILT_IN_MODELS]
    return next(printable(c, 100) for c in candidates if c and c != slug)
