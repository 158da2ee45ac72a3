"""The official route's API: prompts and models, paid for by the user's ChatGPT plan."""

from __future__ import annotations

import re
import uuid
from typing import Any

from .answers import Item
from .checks import PARAMETERS, check_format, check_not_empty, check_phases, check_tools
from .issuer import Account
from .models import version
from .official import PLAN_SCOPE, Login, OfficialSignIn
from .replies import Answer, Refusal, Request, Stream, invalid, refuse

# Every code of this route with its status (docs/protocol.md).
SHARING = "subscription_sharing_"
PLAN_ERRORS = {
    f"{SHARING}usage_limit_exceeded": 429,
    f"{SHARING}workplace_individual_usage_limit_exceeded": 429,
    f"{SHARING}usage_unavailable": 503,
    f"{SHARING}user_unavailable": 503,
    f"{SHARING}user_not_eligible": 403,
    f"{SHARING}unsupported_capability": 400,
    f"{SHARING}route_not_supported": 403,
    f"{SHARING}invalid_user": 401,
    "chatpass_v2_scope_not_authorized": 403,
    "chatpass_v2_invalid_authorization_context": 403,
}
# The version assumed for a client that names none.
OLDEST_CLIENT = "0.150.0"
# Headers that name an account, an organization or an official client.
NAMING_HEADERS = re.compile(
    r"chatgpt-account-id|openai-(organization|project)|originator|version"
    r"|x-(codex|openai)-.*"
)
FIELDS = PARAMETERS - {
    "client_metadata",
    "stream_options",
    "context_management",
    "max_output_tokens",
}
ITEMS = {
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "web_search_call",
    "additional_tools",
    "compaction",
}


def plan_error(code: str, param: str | None = None, v2: bool = False) -> Answer:
    """Build the refusal with one of PLAN_ERRORS; `v2` uses the prefix subscription_sharing_v2_."""
    return Answer(PLAN_ERRORS[code], {"error": _error(code, param, v2)})


def _error(code: str, param: str | None, v2: bool) -> dict[str, Any]:
    name = code.replace(SHARING, f"{SHARING}v2_") if v2 else code
    return {"code": name, "message": f"The server's words for {code}.", "param": param}


def unsupported(param: str) -> Refusal:
    return Refusal(plan_error(f"{SHARING}unsupported_capability", param))


def check_fields(body: dict[str, Any]) -> None:
    if not isinstance(body.get("input"), list):
        raise refuse(422, [{"loc": ["body", "input"], "type": "list_type"}])
    check_not_empty(body["input"])
    for name, value in (("store", False), ("stream", True)):
        if body.get(name) is not value:
            raise refuse(400, f"{name} must be {str(value).lower()}")
    for name in body:
        if name not in FIELDS:
            raise refuse(400, f"Unsupported parameter: {name}")
    if body.get("service_tier") not in (None, "priority", "default"):
        raise refuse(400, f"Unsupported service_tier: {body['service_tier']}")


def check_placement(tools: list[dict[str, Any]], allowed: set[str]) -> None:
    """Raise Refusal for the first tool of a kind that is not allowed here."""
    for tool in tools:
        kind = tool.get("type")
        if kind in ("image_generation", "tool_search"):
            raise unsupported("tools")
        if kind not in allowed:
            raise invalid("invalid_value", f"Unsupported tool type: {kind}", param="tools")
        if kind == "namespace":
            check_placement(tool.get("tools") or [], {"function", "custom"})
    check_tools(tools)


def check_choice(body: dict[str, Any], declared: list[dict[str, Any]]) -> None:
    """Check that `tool_choice` names a tool that this model can be told to call."""
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return
    flat = [tool.get("name") for tool in body.get("tools") or []]
    newer = re.match(r"gpt-(5\.[6-9]|[6-9])", str(body.get("model")))
    tool_names = flat + [tool.get("name") for tool in declared if newer]
    if choice.get("name") not in tool_names:
        raise invalid("invalid_value", "Tool choice not found in 'tools'.", param="tool_choice")


def capabilities(body: dict[str, Any]) -> set[str]:
    """Return the capabilities that a request needs and a model or workspace may lack."""
    used = {tool["type"] for tool in body.get("tools") or []} & {"web_search"}
    if (body.get("text") or {}).get("format"):
        used.add("text.format")
    for item in body["input"]:
        parts = item.get("content") or item.get("output")
        for part in parts if isinstance(parts, list) else []:
            if part.get("type") in ("input_image", "input_file"):
                used.add(part["type"])
    return used


class Plan(OfficialSignIn):
    """Answers the users who have let an app use their plan."""

    def plan_login(self, request: Request) -> Login:
        """Return the login of a request; raises Refusal."""
        entry = self.official_access_tokens.get(request.bearer)
        if entry is None:
            raise refuse(401, "Could not validate the credentials.")
        if entry["expires_at"] <= self.clock():
            raise refuse(401, {"error_code": "invalid_token"})
        for name in request.headers:
            if NAMING_HEADERS.fullmatch(name) or name in self.official.refused_headers:
                raise refuse(400, f"Unexpected header: {name}")
        login: Login = entry["login"]
        if PLAN_SCOPE not in login.scope.split():
            raise Refusal(plan_error("chatpass_v2_scope_not_authorized"))
        return login

    def serve_official_models(self, request: Request) -> Answer:
        """The models of the backend in another order, and one that the API does not serve."""
        self.plan_login(request)
        client = version(request.query.get("client_version", OLDEST_CLIENT))
        hidden = {"slug": "gpt-6-chat", "display_name": "GPT-6-Chat", "supported_in_api": False}
        models = [{**self.models[0], **hidden}, *reversed(self.models)]
        listed = [m for m in models if version(m["minimal_client_version"]) <= client]
        return Answer(200, {"models": listed})

    def serve_official_responses(self, request: Request) -> Answer | Stream:
        owner = self.plan_login(request).owner
        body = request.body
        # No source says that this route accepts compressed requests.
        if not request.is_json or "content-encoding" in request.headers:
            raise refuse(400, "Invalid JSON")
        check_fields(body)
        self.check_model(body, owner)
        check_format(body)
        self._check_plan_tools(body)
        self._check_plan_items(body, owner)
        for name in sorted(capabilities(body) & self.official.refused_capabilities):
            raise unsupported(name)
        session = body.get("prompt_cache_key") or owner.account_id
        if self.demands_phases:
            check_phases(body["input"], self.sent_messages[session])
        frames = self.answer_frames(body, owner, session)
        return Stream(self._grouped(frames), headers=self._plan_headers())

    def _plan_headers(self) -> dict[str, str]:
        kind = self.official.content_type
        return {"x-request-id": str(uuid.uuid4()), **({"Content-Type": kind} if kind else {})}

    def _check_plan_tools(self, body: dict[str, Any]) -> None:
        flat = {"function", "custom"} if self.official.flat_tools else set()
        check_placement(body.get("tools") or [], {"web_search", "namespace", *flat})
        first = body["input"][0] if body["input"] else {}
        declared = first.get("tools") or [] if first.get("type") == "additional_tools" else []
        check_placement(declared, {"function", "custom", "namespace"})
        if any(tool["type"] == "function" and "strict" not in tool for tool in declared):
            raise invalid("missing_required_parameter", "strict", param="input")
        check_choice(body, declared)

    def _check_plan_items(self, body: dict[str, Any], owner: Account) -> None:
        for number, item in enumerate(body["input"]):
            kind = item.get("type", "message")
            if kind not in ITEMS or (kind == "additional_tools" and number > 0):
                message = f"Invalid value: '{item['type']}' in input[{number}]."
                raise invalid("invalid_value", message, param="input")
        self.check_history(body, owner)

    def plan_failure(self, code: str, *items: Item, v2: bool = False) -> Stream:
        """Build a stream that sends `items` and then fails with one of PLAN_ERRORS."""
        frames = self.frames(list(items), terminal="failed", error=_error(code, None, v2))
        return Stream(frames, headers=self._plan_headers())
