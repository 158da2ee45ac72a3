"""One prompt and its answer: the request, what came back, what is recorded.

Nothing is sent or read here: the models' `execute` methods do that, and call an Exchange.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import click
import llm
from llm.parts import StreamEvent

from llm_chatgpt import config, http
from llm_chatgpt.backend import fetch, refusals, resend
from llm_chatgpt.backend.catalogue import ModelInfo, ModelList, remembered_models
from llm_chatgpt.backend.input import InputBuilder, encode
from llm_chatgpt.backend.request import build_body, ignored_note, session_id
from llm_chatgpt.backend.tools import add_tools, own_names, save_image
from llm_chatgpt.backend.translate import EventTranslator
from llm_chatgpt.backend.usage import windows_of_headers
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed, StreamFailed
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import in_words, notice, printable
from llm_chatgpt.values import as_mapping, as_number, as_text

log = logging.getLogger("llm_chatgpt_oauth")

# The server's turn states, which go back to it while a tool loop goes on; newest last.
turn_states: OrderedDict[str, str] = OrderedDict()
TURN_STATES_KEPT = 256
# Left out of the logs: what the request said already, and who asked.
_NOT_LOGGED = ("instructions", "tools", "safety_identifier", "user", "output")
# llm's own code that logs JSON fails at some hundred levels.
_LOGGED_LEVELS = 50
_SOURCES_SHOWN = 10
# What switches a note off.
_OFF = ("0", "no", "off", "false")


class Exchange:
    """One prompt, over all attempts to send it: `request`, `opened`, `end`, then `finish`.

    `attempt` says how to send it next; None once the answer is complete.
    """

    def __init__(self, model: Any, prompt: llm.Prompt, response: Any, conversation: Any):
        self.attempt: resend.Attempt | None = resend.Attempt()
        self.translator = EventTranslator()
        self._model = model
        self._prompt = prompt
        self._response = response
        self._conversation = conversation
        self._tokens = Tokens("")
        self._models: ModelList | None = None
        self._headers: Mapping[str, str] = {}
        self._turn = ""
        self._notes: list[str] = []

    # One attempt

    @property
    def rejected(self) -> str | None:
        """The access token that the server has just answered with 401."""
        return self._tokens.access_token if self.attempt and self.attempt.other_tokens else None

    def request(self, tokens: Tokens) -> dict[str, Any]:
        """What `http.stream` takes. Reads files and may fetch images.

        Raises ChatGPTError for an option that the model does not have.
        """
        attempt = self.attempt or resend.Attempt()
        model = self._model
        options: Any = self._prompt.options
        self._tokens, self._models = tokens, remembered_models(tokens)
        fetched = self._models.find(model.slug) if self._models else None
        info = fetched or model.info
        _check_options(model.model_id, options, info, fetched)
        if attempt.without_summary:
            info = info._replace(summaries=False)
        builder = InputBuilder(
            account_key="" if attempt.without_reasoning else tokens.account_key,
            image_detail=options.image_detail,
            takes_images=info.takes_images,
        )
        builder.build(self._prompt.messages, self._prompt.system)
        self._notes = builder.notes
        # In a chain of tools, only the first prompt says so.
        if options.ignored and not self._prompt.tool_results:
            self._notes.insert(0, ignored_note(options.ignored))
        session = session_id(
            self._conversation, builder.instructions, builder.items, options.prompt_cache_key
        )
        body = build_body(
            info,
            dict(options),
            instructions=builder.instructions,
            session=session,
            schema=self._prompt.schema,
            hide_reasoning=self._prompt.hide_reasoning,
        )
        add_tools(body, model, self._prompt.tools)
        body["input"] = builder.items
        headers = backend_headers(tokens) | {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "session-id": session,
        }
        self._turn = _turn_key(session, tokens, builder.items)
        if self._turn in turn_states and builder.items[-1]["type"] == "function_call_output":
            headers["x-codex-turn-state"] = turn_states[self._turn]
        self.translator = EventTranslator(
            account_key=tokens.account_key,
            save_image=functools.partial(save_image, self._prompt),
            tool_names=own_names(self._prompt.tools),
        )
        return {
            "method": "POST",
            "url": f"{config.base_url(tokens.origin)}/codex/responses",
            "content": encode(body, builder.images),
            "headers": headers,
            "timeout": http.library().Timeout(
                config.idle_timeout(), connect=config.CONNECT_TIMEOUT_SECONDS, pool=None
            ),
        }

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Around an attempt: swallows a failure after which the prompt is sent again."""
        last = self.attempt or resend.Attempt()
        # Not told by `request`, because it may run in a thread, which has no terminal.
        for note in self._notes if last == resend.Attempt() else []:
            notice(note)
        try:
            try:
                yield
            except ConnectionFailed as error:
                raise _broke_off(error, started=self.translator.started) from error
            self.attempt = None
        except ChatGPTError as error:
            if self.translator.started:
                raise
            self.attempt = resend.next_attempt(
                last, error, refreshed_at=self._tokens.refreshed_at, now=time.time()
            )
            if self.attempt is None:
                raise
            if self.attempt.resends > last.resends:
                wait = f" in {in_words(error.retry_after)}" if error.retry_after else ""
                count = f"{self.attempt.resends} of {resend.resends_allowed(error)}"
                reason = error.message.split(". ")[0].rstrip(".")
                notice(f"{reason}; retrying{wait} ({count})...")

    def refusal(self, reply: Any, content: bytes) -> ChatGPTError:
        """The error for an answer with an error status."""
        host = urlsplit(config.base_url(self._tokens.origin)).netloc
        whole = http.Reply(reply.status, reply.headers, content, host)
        return refusals.explain_refusal(whole, slug=self._model.slug, models=self._models)

    def opened(self, headers: Mapping[str, str]) -> None:
        """Note the headers of an answer that begins."""
        self._headers = headers
        turn_state = headers.get("x-codex-turn-state")
        if turn_state:
            turn_states[self._turn] = turn_state
            turn_states.move_to_end(self._turn)
            while len(turn_states) > TURN_STATES_KEPT:
                turn_states.popitem(last=False)

    def end(self) -> list[StreamEvent]:
        """The stream's last events. Raises StreamFailed, UsageLimitReached."""
        events = self.translator.finish()
        if self.translator.ended is None:
            raise StreamFailed(
                "The answer was cut off: the server closed the connection. Send the prompt again.",
                code="closed",
            )
        if self.translator.ended in ("failed", "error"):
            raise refusals.explain_stream_error(
                self.translator.error, self._headers, slug=self._model.slug, models=self._models
            )
        return list(events)

    # Afterwards

    def finish(self) -> list[StreamEvent]:
        """Record the answer and its usage; returns what remains to be yielded."""
        translator, response = self.translator, self._response
        for call in translator.tool_calls:
            response.add_tool_call(call)
        fields = {k: v for k, v in translator.response.items() if k not in _NOT_LOGGED}
        answer = _loggable({**fields, "output": translator.output})
        usage = dict(as_mapping(answer.get("usage")))
        usage.pop("attribution", None)
        thought = None
        if usage:
            answer["usage"] = usage
            details = {
                name: usage[name]
                for name in ("input_tokens_details", "output_tokens_details")
                if as_mapping(usage.get(name))
            }
            response.set_usage(
                input=int(as_number(usage.get("input_tokens")) or 0),
                output=int(as_number(usage.get("output_tokens")) or 0),
                details=details or None,
            )
            thought = details.get("output_tokens_details", {}).get("reasoning_tokens")
        response.response_json = answer
        served = self._headers.get("openai-model") or as_text(answer.get("model"))
        if served:
            response.set_resolved_model(printable(served, 100))
        # An answer that has arrived is kept, whatever fails after it.
        with contextlib.suppress(Exception):
            self._tell()
        if thought and not translator.had_reasoning:
            return [StreamEvent(type="reasoning", chunk="", redacted=True)]
        return []

    def update_models(self) -> None:
        """Fetch the model list if the answer says that it has changed; 2 seconds at most."""
        with contextlib.suppress(Exception):
            fetch.update_models(self._tokens, self._models, self._headers.get("x-models-etag"))

    def _tell(self) -> None:
        """Say on stderr what the user should know about the answer."""
        notes = []
        if self.translator.ended == "incomplete":
            details = as_mapping(self.translator.response.get("incomplete_details"))
            reason = printable(details.get("reason") or "no reason given", 100)
            notes.append(f"The answer was cut short ({reason}).")
        served, slug = self._response.resolved_model, self._model.slug
        # A dated snapshot of the model is the model.
        if served and not re.fullmatch(re.escape(slug) + r"(-\d{4}-\d{2}-\d{2})?", served):
            notes.append(f"Note: chatgpt-{served} answered instead of chatgpt-{slug}.")
        if config.setting("USAGE_NOTE") not in _OFF:
            notes += [
                f"Note: {window.left_percent:.0f}% of your {window.name} limit left"
                f"{window.reset_words}."
                for window in windows_of_headers(self._headers)
                if window.left_percent < config.LOW_ALLOWANCE_PERCENT
            ]
        on_terminal = click.get_current_context(silent=True) and sys.stderr.isatty()
        if on_terminal and config.setting("SOURCES") not in _OFF:
            notes += _source_list(self.translator.sources)
        if notes:
            notice("\n".join(notes), mid_line=self.translator.mid_line)


def _check_options(model_id: str, options: Any, info: ModelInfo, fetched: ModelInfo | None) -> None:
    """Refuse what the model is known not to take."""
    if options.image_detail == "original" and info.original_detail is False:
        raise ChatGPTError(f"{model_id} has no image_detail original. Choose auto, low or high.")
    effort = options.reasoning_effort
    # Only the list that this login was given counts; the built-in one may be old.
    efforts = (fetched.efforts if fetched else None) or ()
    # "ultra" is sent as "max".
    sent = "max" if effort == "ultra" and "ultra" not in efforts else effort
    if efforts and sent not in (None, "none", *efforts):
        raise ChatGPTError(
            f"{model_id} has no reasoning effort '{effort}'. Choose one of: "
            f"{', '.join(map(printable, efforts))}."
        )


def _source_list(sources: Sequence[tuple[str, str]]) -> list[str]:
    """The pages that an answer rests on, a line each."""
    lines = dict.fromkeys(
        f"{printable(title, 70)}: {printable(url)}" if title else printable(url)
        for title, url in sources
    )
    shown = [f"{number}. {line}" for number, line in enumerate(lines, 1)]
    more = [f"and {len(shown) - _SOURCES_SHOWN} more"] if len(shown) > _SOURCES_SHOWN else []
    return ["Sources:", *shown[:_SOURCES_SHOWN], *more] if shown else []


def _turn_key(session: str, tokens: Tokens, items: list[dict[str, Any]]) -> str:
    """A name for the turn that began with the user's last message."""
    begins = [n for n, item in enumerate(items) if item.get("role") in ("user", "developer")]
    begin = begins[-1] if begins else -1
    said = json.dumps(items[begin]) if begins else ""
    return hashlib.sha256(f"{session} {tokens.account_key} {begin} {said}".encode()).hexdigest()


def _broke_off(error: ConnectionFailed, *, started: bool) -> StreamFailed:
    reason = error.message.rstrip(".")
    if error.stalled:
        reason = f"no data for {in_words(config.idle_timeout())}"
    if started:
        reason = reason[0].lower() + reason[1:]
        message = f"The answer was cut off: {reason}. Send the prompt again."
    elif error.stalled:
        message = f"No answer from OpenAI: {reason}. Try again later."
    else:
        message = f"{reason}. Check the network and try again."
    return StreamFailed(message, code="stalled" if error.stalled else "connection")


def _loggable(value: Any, levels: int = _LOGGED_LEVELS) -> Any:
    """JSON without nulls, and without what is nested too deep."""
    if isinstance(value, dict):
        found = {k: _loggable(v, levels - 1) for k, v in value.items() if levels}
        return {k: v for k, v in found.items() if v is not None}
    if isinstance(value, list):
        return [_loggable(item, levels - 1) for item in value if levels]
    return value
