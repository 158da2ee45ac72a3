"""One prompt: send, read, decide whether to send again."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import llm
from llm.parts import StreamEvent

from llm_chatgpt import config, http
from llm_chatgpt.backend.catalogue import ModelInfo, remembered_models
from llm_chatgpt.backend.fetch import update_models
from llm_chatgpt.backend.input import InputBuilder, encode
from llm_chatgpt.backend.refusals import POLICY_CODES, REGION_CODE, error_message, explain_refusal
from llm_chatgpt.backend.request import build_body, session_id
from llm_chatgpt.backend.tools import add_tools, save_image
from llm_chatgpt.backend.translate import EventTranslator
from llm_chatgpt.backend.usage import windows_of_headers
from llm_chatgpt.errors import ChatGPTError, StreamFailed, UsageLimitReached
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import in_words, notice, printable
from llm_chatgpt.values import as_mapping

# Turn states to send back while a tool loop goes on (responses.md 1), newest last.
turn_states: OrderedDict[str, str] = OrderedDict()
TURN_STATES_KEPT = 256
# Kept out of the logs: what the request said already, and who asked.
_NOT_LOGGED = ("instructions", "tools", "safety_identifier", "user", "output")


class Resend(NamedTuple):
    """Send once more: after `delay` seconds, with tokens other than `rejected` if given."""

    delay: float = 0.0
    rejected: str | None = None


class Exchange:
    """One prompt and its answer: what to send, what came back, whether to send again.

    No I/O; the model's two `execute` methods do that. Sent again only while nothing was
    shown and no tool was named (responses.md 9).
    """

    def __init__(self, model: Any, prompt: llm.Prompt, response: Any, conversation: Any):
        self.model = model
        self.prompt = prompt
        self.response = response
        self.conversation = conversation
        self.translator = EventTranslator()
        self.failure: ChatGPTError | None = None
        self.headers: Mapping[str, str] = {}
        self._resends = 0
        self._waited = 0.0
        self._retry_after: float | None = None
        self._passing = False
        self._refreshed = False
        self._without_summary = False
        self._without_reasoning = False
        self._told_of_lost: set[str] = set()

    # Before

    def request(self, tokens: Tokens) -> dict[str, Any]:
        """The arguments of the client's `stream` call, for a (new) attempt."""
        self.tokens = tokens
        self.url = f"{config.base_url(tokens.origin)}/codex/responses"
        self.models = remembered_models(tokens)
        info = (self.models and self.models.find(self.model.slug)) or self.model.info
        self._check_options(info)
        if self._without_summary:
            info = info._replace(summaries=False)
        options: Any = self.prompt.options
        builder = InputBuilder(
            # Nobody's reasoning goes along once the server could not read it.
            account_key="" if self._without_reasoning else tokens.account_key,
            image_detail=options.image_detail,
            takes_images=info.takes_images,
        )
        builder.build(self.prompt.messages, self.prompt.system)
        for name in builder.lost_attachments:
            if name not in self._told_of_lost:
                self._told_of_lost.add(name)
                notice(f"Warning: the attachment {name} is gone; the model is told so instead.")
        session = session_id(self.conversation, builder.instructions, builder.items)
        body = build_body(
            info,
            dict(options),
            instructions=builder.instructions,
            session=session,
            schema=self.prompt.schema,
            hide_reasoning=self.prompt.hide_reasoning,
        )
        add_tools(body, self.model, self.prompt.tools)
        body["input"] = builder.items
        self._turn = _turn_key(session, tokens, builder.items)
        headers = backend_headers(tokens) | {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "session-id": session,
        }
        turn_state = turn_states.get(self._turn)
        if turn_state and builder.items and builder.items[-1]["type"] == "function_call_output":
            headers["x-codex-turn-state"] = turn_state
        self.failure = None
        self.translator = EventTranslator(
            account_key=tokens.account_key, save_image=functools.partial(save_image, self.prompt)
        )
        library = http.http_library()
        return {
            "method": "POST",
            "url": self.url,
            "content": encode(body, builder.images),
            "headers": headers,
            "timeout": library.Timeout(
                config.idle_timeout(), connect=config.CONNECT_TIMEOUT_SECONDS, pool=None
            ),
        }

    def _check_options(self, info: ModelInfo) -> None:
        """Refuse here what the model is known not to take."""
        options: Any = self.prompt.options
        if options.image_detail == "original" and info.original_detail is False:
            raise ChatGPTError(
                f"{self.model.model_id} has no image_detail original. Choose auto, low or high."
            )
        effort = options.reasoning_effort
        # Only the list that this login was given counts; the built-in one may be old.
        fetched = self.models.find(self.model.slug) if self.models else None
        if not effort or not fetched or not fetched.efforts or effort == "none":
            return
        if effort not in fetched.efforts and not (effort == "ultra" and "max" in fetched.efforts):
            raise ChatGPTError(
                f"{self.model.model_id} has no reasoning effort '{effort}'. Choose one of: "
                f"{', '.join(map(printable, fetched.efforts))}."
            )

    # What comes back

    def opened(self, headers: Any) -> None:
        self.headers = http.lower_names(headers)
        turn_state = self.headers.get("x-codex-turn-state")
        if turn_state:
            turn_states[self._turn] = turn_state
            turn_states.move_to_end(self._turn)
            while len(turn_states) > TURN_STATES_KEPT:
                turn_states.popitem(last=False)

    def refused(self, status: int, headers: Any, content: bytes) -> None:
        """An answer that is no stream: note the failure, and whether it may pass."""
        reply = http.Reply(status, http.lower_names(headers), content, urlsplit(self.url).netloc)
        error = explain_refusal(reply, slug=self.model.slug, models=self.models)
        self.failure = error
        self._retry_after = retry_after(reply.headers.get("retry-after"), error_message(reply))
        limit = isinstance(error, UsageLimitReached)
        self._passing = (status == 429 and not limit) or status >= 500

    def broke_off(self, error: BaseException) -> None:
        """No answer, or one that stopped in the middle."""
        host = urlsplit(self.url).netloc
        reason = http.transport_reason(error)
        stalled = isinstance(error, http.http_library().ReadTimeout)
        if stalled:
            reason = f"nothing came for {in_words(config.idle_timeout())}"
        self.failure = StreamFailed(
            f"The answer was cut off: {host}: {reason}. Send the prompt again."
            if self.translator.started
            else f"No answer from {host}: {reason}. Check the network and try again.",
            code="connection",
        )
        # Who has waited for minutes should not do so four times more.
        self._passing, self._retry_after = not stalled, None

    def closed(self) -> None:
        """The stream ended without saying how the answer ended."""
        self.failure = StreamFailed(
            "The answer was cut off: the server closed the connection before the end. "
            "Send the prompt again.",
            code="closed",
        )
        self._passing, self._retry_after = True, None

    def ended(self) -> None:
        """The stream's last event is in: good, or a failure to report."""
        translator = self.translator
        if translator.ended not in ("failed", "error"):
            return
        code = translator.error.get("code") or translator.error.get("type")
        error = {k: v for k, v in translator.error.items() if k != "type" or v != "error"}
        reply = http.Reply(
            200,
            self.headers,
            json.dumps({"error": {"code": code, **error}}).encode(),
        )
        refusal = explain_refusal(reply, slug=self.model.slug, models=self.models)
        message = refusal.message
        code = reply.error_code or ""
        if code == "rate_limit_exceeded":
            message = f"OpenAI asks for fewer requests ({error_message(reply)}). Try again later."
        kind = type(refusal) if isinstance(refusal, UsageLimitReached) else StreamFailed
        self.failure = kind(message, code=code)
        self._retry_after = retry_after(None, error_message(reply))
        self._passing = (
            code not in POLICY_CODES
            and code not in ("context_length_exceeded", "invalid_encrypted_content")
            and not isinstance(refusal, UsageLimitReached)
        )

    # Afterwards

    def next_step(self) -> Resend | None:
        """None when the answer is good, how to send again, or the failure raised."""
        failure = self.failure
        if failure is None:
            return None
        if self.translator.started:
            raise failure
        if failure.status == 401 and failure.code != REGION_CODE and not self._refreshed:
            self._refreshed = True
            return Resend(rejected=self.tokens.access_token)
        words = failure.message
        if failure.status == 400 and "reasoning.summary" in words and not self._without_summary:
            self._without_summary = True
            return Resend()
        if failure.code == "invalid_encrypted_content" and not self._without_reasoning:
            self._without_reasoning = True
            return Resend()
        if not self._passing or self._resends >= config.MAX_RESENDS:
            raise failure
        delay = self._retry_after
        if delay is None:
            pause = config.FIRST_RESEND_PAUSE_SECONDS * 2**self._resends
            delay = pause * random.uniform(0.9, 1.1)
        if self._waited + delay > config.MAX_RESEND_WAIT_SECONDS:
            asked = f"{words} OpenAI asks to wait {in_words(delay)}."
            raise type(failure)(asked, code=failure.code, status=failure.status) from failure
        self._resends += 1
        self._waited += delay
        if self._resends > 1:
            reason = words.split(". ")[0].rstrip(".")
            notice(f"{reason}; trying again ({self._resends} of {config.MAX_RESENDS})...")
        return Resend(delay=delay)

    def finish(self) -> list[StreamEvent]:
        """Record usage, the model and the raw answer; the events that come last."""
        translator, response = self.translator, self.response
        for call in translator.tool_calls:
            response.add_tool_call(call)
        answer = {k: v for k, v in translator.response.items() if k not in _NOT_LOGGED}
        usage = dict(as_mapping(answer.get("usage")))
        usage.pop("attribution", None)
        if usage:
            answer["usage"] = usage
            details = {
                name: usage[name]
                for name in ("input_tokens_details", "output_tokens_details")
                if usage.get(name)
            }
            response.set_usage(
                input=usage.get("input_tokens") or 0,
                output=usage.get("output_tokens") or 0,
                details=details or None,
            )
        answer["output"] = translator.output
        response.response_json = _without_none(answer)
        self._record_model(answer.get("model"))
        self._tell_of_allowance()
        if translator.ended == "incomplete":
            reason = as_mapping(answer.get("incomplete_details")).get("reason")
            notice(
                f"The answer is incomplete: {printable(reason or 'no reason given', 100)}.",
                mid_line=translator.mid_line,
            )
        thought = as_mapping(usage.get("output_tokens_details")).get("reasoning_tokens")
        if thought and not translator.had_reasoning:
            return [StreamEvent(type="reasoning", chunk="", redacted=True)]
        return []

    def update_models(self) -> None:
        """Fetch the model list if the answer says that it has changed. Blocks up to 2 s."""
        update_models(self.tokens, self.models, self.headers.get("x-models-etag"))

    @property
    def models_changed(self) -> bool:
        etag = self.headers.get("x-models-etag")
        return bool(etag) and not (self.models and self.models.etag == etag)

    def _tell_of_allowance(self) -> None:
        if config.setting("USAGE_NOTE") in ("0", "no", "off", "false"):
            return
        for window in windows_of_headers(self.headers):
            if window.left_percent < config.LOW_ALLOWANCE_PERCENT:
                notice(
                    f"Note: {window.left_percent:.0f} % of the {window.name} allowance is left"
                    f"{window.reset_words}.",
                    mid_line=self.translator.mid_line,
                )

    def _record_model(self, said: object) -> None:
        served = self.headers.get("openai-model") or said
        if not isinstance(served, str) or not served:
            return
        served = printable(served, 100)
        self.response.set_resolved_model(served)
        # A dated snapshot of the model is the model.
        if not re.fullmatch(re.escape(self.model.slug) + r"(-\d{4}-\d{2}-\d{2})?", served):
            notice(
                f"Note: {served} answered instead of {self.model.slug}.",
                mid_line=self.translator.mid_line,
            )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _turn_key(session: str, tokens: Tokens, items: list[dict[str, Any]]) -> str:
    """Names a turn: all that was said up to the person's last message."""
    end = max(
        (i for i, item in enumerate(items) if item.get("role") in ("user", "developer")), default=-1
    )
    digest = hashlib.sha256(f"{session} {tokens.account_key} {end} ".encode())
    if end >= 0:
        digest.update(json.dumps(items[end]).encode())
    return digest.hexdigest()


def retry_after(header: str | None, words: str | None) -> float | None:
    """The seconds that the server asks to wait: its header, or "try again in N s"."""
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        pass
    match = re.search(r"try again in ([\d.]+) ?(ms|s\b|seconds?)", words or "", re.IGNORECASE)
    if match:
        try:
            number = float(match[1])
        except ValueError:
            return None
        return number / 1000 if match[2] == "ms" else number
    return None
