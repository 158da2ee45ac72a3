"""One prompt: the request, what came back, and whether to send it again.

Nothing is sent or read here: the models' `execute` methods do that, and call an Exchange.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llm.parts import StreamEvent

from llm_chatgpt import config, http
from llm_chatgpt.backend import fetch, outcome, refusals, resend
from llm_chatgpt.backend.answer import Answer
from llm_chatgpt.backend.catalogue import ModelInfo, ModelList, remembered_models
from llm_chatgpt.backend.input import InputBuilder
from llm_chatgpt.backend.refusable import REASONING
from llm_chatgpt.backend.request import build_body, session_id
from llm_chatgpt.backend.tools import add_tools, place_tools, save_image
from llm_chatgpt.backend.translate import EventTranslator
from llm_chatgpt.backend.usage import resets_of_usage
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed, RefreshFailed, StreamFailed
from llm_chatgpt.login.current import choose_credential
from llm_chatgpt.login.store import read_store
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import in_words, notice, printable

# The server's turn states, which go back to it while a tool loop goes on; newest last.
turn_states: dict[str, str] = {}
TURN_STATES_KEPT = 256


class Exchange:
    """One prompt, over all rounds of its answer and all attempts to send each.

    For each attempt, `execute` calls `request`, sends what it returns, and calls `opened`,
    `translator.feed` and `end`, all of it `trying`, until it is `complete`; then once `finish`
    and `update_models`. `attempt` says how to send the prompt next. `keeping` is around it all.
    """

    def __init__(self, model: Any, prompt: Any, response: Any, conversation: Any, key: str | None):
        self.attempt = resend.Attempt()
        self.complete = False
        self.translator = EventTranslator()
        # What the complete rounds have brought.
        self._answer = Answer()
        # Why the answer ends before the model wanted it to.
        self._stopped: list[str] = []
        self._model = model
        self._prompt = prompt
        self._response = response
        self._conversation = conversation
        self._key = key
        self._tokens = Tokens("")
        self._models: ModelList | None = None
        self._headers: Mapping[str, str] = {}
        self._turn = ""
        # What a server's 401 said, which a refresh may mend.
        self._rejection = ""
        self._sent_files = False
        self._notes: list[str] = []

    # One attempt

    @property
    def rejected(self) -> str | None:
        """The access token that the server has just answered with 401."""
        return self._tokens.access_token if self.attempt.other_tokens else None

    def request(self, tokens: Tokens) -> dict[str, Any]:
        """What `http.stream` takes. Reads files and may fetch attachments.

        Raises ChatGPTError for an option, a tool or an attachment that cannot be sent.
        """
        prompt, options = self._prompt, self._prompt.options
        self._tokens, self._models = tokens, remembered_models(tokens)
        info = self._known_model()
        if self.attempt.without_summary:
            info = info._replace(summaries=False)
        builder = InputBuilder(
            account_key=tokens.account_key,
            slug=info.slug,
            image_detail=options.image_detail,
            takes_images=info.takes_images,
            without=frozenset([REASONING] if self.attempt.without_reasoning else []),
        )
        builder.build(prompt.messages, prompt.system, self._answer.messages)
        # In a chain of tools, only the first prompt says so.
        ignored = options.ignored if not prompt.tool_results else []
        if ignored:
            names, them = ", ".join(ignored), "it" if len(ignored) == 1 else "them"
            note = f"Note: ignoring {names}; a ChatGPT login does not accept {them}."
            builder.notes.insert(0, note)
        self._notes = builder.notes
        self._sent_files = builder.attachments.has_files
        session = session_id(
            self._conversation, builder.instructions, builder.items, options.prompt_cache_key
        )
        body = build_body(
            info,
            dict(options),
            instructions=builder.instructions,
            session=session,
            schema=prompt.schema,
            hide_reasoning=prompt.hide_reasoning,
        )
        tool_names = add_tools(body, self._model, prompt.tools)
        place_tools(body, builder.items, tokens.route)
        body["input"] = builder.items
        answer = self._answer.copy()
        answer.request = builder.request
        self.translator = EventTranslator(
            answer,
            account_key=tokens.account_key,
            slug=info.slug,
            save_image=functools.partial(save_image, prompt),
            tool_names=tool_names,
        )
        return {
            "method": "POST",
            "url": tokens.route.base_url(tokens.origin) + tokens.route.responses_path,
            "content": builder.attachments.encode(body),
            "headers": self._request_headers(session, builder.items),
            "timeout": http.library().Timeout(
                config.idle_timeout(), connect=config.CONNECT_TIMEOUT_SECONDS, pool=None
            ),
        }

    def _known_model(self) -> ModelInfo:
        """What is known of the model; raises ChatGPTError for options that it does not have."""
        model_id, options = self._model.model_id, self._prompt.options
        # Only the list that this login was given counts; the built-in one may be old.
        fetched = self._models.find(self._model.slug) if self._models else None
        info: ModelInfo = fetched or self._model.info
        if options.image_detail == "original" and not info.original_detail:
            raise ChatGPTError(
                f"{model_id} has no image_detail original. Choose auto, low or high."
            )
        effort, efforts = options.reasoning_effort, fetched.efforts if fetched else ()
        # "ultra" is sent as "max".
        sent = "max" if effort == "ultra" and "ultra" not in efforts else effort
        if efforts and sent not in (None, "none", *efforts):
            raise ChatGPTError(
                f"{model_id} has no reasoning effort '{effort}'. Choose one of: "
                f"{', '.join(map(printable, efforts))}."
            )
        return info

    def _request_headers(self, session: str, items: list[dict[str, Any]]) -> dict[str, str]:
        headers = backend_headers(self._tokens) | {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
        }
        if not self._tokens.route.names_account:
            return headers
        headers["session-id"] = session
        self._turn = _turn_key(session, self._tokens, items)
        asks = bool(items) and items[-1].get("role") in ("user", "developer")
        if self._turn in turn_states and not asks:
            headers["x-codex-turn-state"] = turn_states[self._turn]
        return headers

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Around an attempt: swallows a failure after which the prompt is sent again."""
        last = self.attempt
        # Not told by `request`, because it may run in a thread, which has no terminal.
        first = last == resend.Attempt() and not self._answer.rounds
        for note in self._notes if first else []:
            notice(note)
        try:
            try:
                yield
            except ConnectionFailed as error:
                raise _broke_off(error, started=self.translator.started) from error
            self._end_round()
        except ChatGPTError as error:
            again = resend.next_attempt(last, error, self._tokens, time.time())
            if self.translator.started or again is None:
                raise
            self.attempt = again
            if again.other_tokens:
                self._rejection = f"{error.reason}. "
            if again.resends > last.resends:
                wait = f" in {in_words(error.retry_after)}" if error.retry_after else ""
                count = f"{again.resends} of {resend.resends_allowed(error, self._tokens)}"
                notice(
                    f"{error.reason}; retrying{wait} ({count})...",
                    mid_line=self._answer.mid_line,
                )
                self._answer.mid_line = False

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Around all attempts: once a round is complete, an error only ends the answer."""
        try:
            yield
        except ChatGPTError as error:
            if isinstance(error, RefreshFailed) and self._tokens.earliest_refresh_at:
                # Else nobody would learn what the server has said.
                message = self._rejection + error.message
                error = RefreshFailed(message, permanent=error.permanent, code=error.code)
            if not self._answer.rounds:
                raise error
            if self.translator.started:
                self._answer = self.translator.answer
                # A call of a round that failed is stored, but not carried out.
                self._answer.tool_calls.clear()
            self._stopped = [f"The model could not go on. {' '.join(error.message.split())}"]

    def _end_round(self) -> None:
        """Keep what the round has brought, and go on if the model wants to (docs/protocol.md)."""
        self._answer = answer = self.translator.answer
        goes_on = answer.ended == "completed" and answer.response.get("end_turn") is False
        self.complete = not goes_on or answer.has_calls
        if not self.complete and answer.rounds == config.MAX_FURTHER_ROUNDS:
            self.complete = True
            self._stopped = [
                f"Note: stopped after {answer.rounds} further requests, although the model "
                "wanted to go on."
            ]
        elif not self.complete:
            answer.rounds += 1
            self.attempt = resend.first_attempt(self.attempt)

    def refusal(self, reply: Any, content: bytes) -> ChatGPTError:
        """The error for an answer with an error status. May send a request."""
        host = urlsplit(self._tokens.route.base_url(self._tokens.origin)).netloc
        whole = http.Reply(reply.status, reply.headers, content, host)
        return refusals.explain_refusal(whole, files=self._sent_files, **self._known())

    @property
    def failed(self) -> bool:
        """Whether the stream has reported an error, which `failure` explains."""
        return self.translator.ended in ("failed", "error")

    def failure(self) -> ChatGPTError:
        """The error that the stream has reported. May send a request."""
        error = self.translator.error
        return refusals.explain_stream_error(error, self._headers, **self._known())

    def _known(self) -> dict[str, Any]:
        """What the sentence on an error may name."""
        account, login = None, self._tokens.route.login_command()
        with contextlib.suppress(ChatGPTError):
            store = read_store()
            account = choose_credential(self._key, store).account
            login = store.login_command(account)
        banked = functools.partial(self._banked_resets, account)
        return {"slug": self._model.slug, "models": self._models, "login": login, "banked": banked}

    def _banked_resets(self, account: str | None) -> str:
        """A sentence about resets that the user could spend; 2 seconds at most."""
        option = f" --account {printable(account, 60)}" if self._key else ""
        # No command can name an access token.
        if option and not account:
            return ""
        with contextlib.suppress(ChatGPTError):
            usage = fetch.fetch_usage(self._tokens, seconds=config.RESETS_TIMEOUT_SECONDS)
            resets = resets_of_usage(usage)
            if resets and resets.available:
                count = f"{resets.available} banked reset{'s' * (resets.available != 1)}"
                return f" You have {count}: run 'llm chatgpt reset{option}'."
        return ""

    def opened(self, headers: Mapping[str, str]) -> None:
        """Note the headers of an answer that begins."""
        self._headers = headers
        if turn_state := headers.get("x-codex-turn-state"):
            turn_states.pop(self._turn, None)
            turn_states[self._turn] = turn_state
            for oldest in list(turn_states)[:-TURN_STATES_KEPT]:
                turn_states.pop(oldest, None)

    def end(self) -> Iterator[StreamEvent]:
        """The stream's last events. Raises StreamFailed if it was cut off."""
        yield from self.translator.finish()
        if self.translator.ended is None:
            raise StreamFailed(
                "The answer was cut off: the server closed the connection. Send the prompt again.",
                code="closed",
            )

    # Afterwards

    def finish(self) -> Iterator[StreamEvent]:
        """Record the answer, and say what there is to say; the events that remain to yield."""
        answer = self._answer
        answer.repeat_commentary()
        yield from answer.events
        yield from outcome.record(answer, self._headers, self._response)
        # An answer that has arrived is kept, whatever fails after it.
        with contextlib.suppress(Exception):
            notes = outcome.notes(answer, self._headers, self._model.slug)
            if lines := [*self._stopped, *notes]:
                notice("\n".join(lines), mid_line=answer.mid_line)

    def update_models(self) -> None:
        """Fetch the model list if the answer says that it has changed; 2 seconds at most."""
        with contextlib.suppress(Exception):
            fetch.update_models(self._tokens, self._models, self._headers.get("x-models-etag"))


def _turn_key(session: str, tokens: Tokens, items: list[dict[str, Any]]) -> str:
    """A name for the turn that began with the user's last message."""
    asked = (n for n, item in enumerate(items) if item.get("role") in ("user", "developer"))
    begin = max(asked, default=0)
    said = json.dumps(items[begin : begin + 1])
    return hashlib.sha256(f"{session} {tokens.account_key} {begin} {said}".encode()).hexdigest()


def _broke_off(error: ConnectionFailed, *, started: bool) -> StreamFailed:
    reason = error.message.rstrip(".")
    if error.stalled:
        reason = f"no data for {in_words(config.idle_timeout())}"
    if started:
        message = f"The answer was cut off: {reason[0].lower()}{reason[1:]}. Send the prompt again."
    elif error.stalled:
        message = f"No answer from OpenAI: {reason}. Try again later."
    else:
        message = f"{reason}. Check the network and try again."
    return StreamFailed(message, code="stalled" if error.stalled else "connection")
