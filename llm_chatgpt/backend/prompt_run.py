"""Run one prompt: build its requests, read the replies, and decide whether to send again.

The models' `execute` methods send and receive; they call a PromptRun in between.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llm.parts import StreamEvent

from llm_chatgpt import config, http
from llm_chatgpt.backend import endpoints, optional_parts, reached_limit, record, refusals, retry
from llm_chatgpt.backend.answer import Answer, Round
from llm_chatgpt.backend.catalogue import DEFAULT
from llm_chatgpt.backend.display import Display
from llm_chatgpt.backend.history import answered_calls
from llm_chatgpt.backend.memory import memory
from llm_chatgpt.backend.request import Request, RequestBuilder, scopes
from llm_chatgpt.backend.tools import save_image
from llm_chatgpt.backend.translate import EventTranslator
from llm_chatgpt.errors import (
    ChatGPTError,
    ConnectionFailed,
    RefreshFailed,
    StreamFailed,
    UsageLimitReached,
)
from llm_chatgpt.login.credentials import Credential, Rejection, choose_credential
from llm_chatgpt.login.login_file import read_store
from llm_chatgpt.login.tokens import Tokens, header_safe
from llm_chatgpt.text import in_words, notice
from llm_chatgpt.waiting import Waiting


class PromptRun:
    """The state of one prompt, over all rounds of its answer and all attempts at each round.

    Until it is `complete`, `execute` sleeps for the `pauses`, sends the `request`, calls `opened`,
    `translator.feed` and `end_round`, and passes each error to `failed`. Then it calls `finish`.
    """

    def __init__(
        self,
        model: Any,
        prompt: Any,
        response: Any,
        conversation: Any,
        key: str | None,
        stream: bool = True,
    ):
        self._model = model
        self._prompt = prompt
        self._response = response
        self._key = key
        self._turn = memory.turn_of(answered_calls(prompt.messages))
        self._builder = RequestBuilder(model, prompt, conversation, self._turn, memory)
        self.display = Display(prompt, stream, self._activity)
        # Notes for the user about the requests, and about an early end of the answer.
        self._notes: list[str] = []
        # The request that was sent last.
        self._sent = Request(model.info)
        self.attempt = retry.Attempt(without=self._turn.without)
        self.complete = False
        self.translator = EventTranslator()
        # The answer so far: all rounds before the current one.
        self._answer = Answer()
        # How many further requests the model has asked for.
        self._further_rounds = 0
        # Whether the prompt has been sent again after an empty answer.
        self._retried_empty = False
        # Whether the last request has no answer yet.
        self._is_sending = False
        self._tokens = Tokens("")
        self._headers: Mapping[str, str] = {}
        # The server's last 401, and the access token that it refused.
        self._unauthorized: ChatGPTError | None = None
        self.rejected: Rejection | None = None

    # One attempt

    @functools.cached_property
    def credential(self) -> Credential:
        """The login, chosen once so that all attempts use the same account."""
        return choose_credential(self._key, read_store())

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to sleep before this attempt.

        A long pause is divided, and checked against the clock: the machine may sleep meanwhile.
        """
        pause = self.attempt.pause
        end, longest = time.time() + pause, config.MAX_RETRY_AFTER_SECONDS
        with Waiting("Waiting to try again", pause):
            yield min(pause, longest)
            while pause > longest and (left := end - time.time()) > 0:
                yield min(left, longest)

    def _activity(self) -> str:
        """Return the text of the waiting line."""
        size = len(self._sent.arguments.get("content", b"")) / 1e6
        if self._is_sending and size >= 1:
            return f"Uploading {size:.0f} MB"
        return self.translator.activity or "Thinking"

    def request(self, tokens: Tokens) -> Mapping[str, Any]:
        """Build the request to pass to `http.SyncStream`. May read files and fetch addresses.

        Raises ChatGPTError for an effort, a schema, a tool or an attachment that cannot be sent.
        """
        self._tokens = tokens
        self._sent = sent = self._builder.build(tokens, self.attempt.without, self._answer)
        self.attempt = self.attempt._replace(without=sent.without)
        self.translator = EventTranslator(
            Round(self._answer, sent.state),
            origin={"account": tokens.account_key, "model": sent.info.slug},
            save_image=functools.partial(save_image, self._prompt, self.display.note),
            tool_names=sent.tool_names,
        )
        self._is_sending = True
        return sent.arguments

    def opened(self, headers: Mapping[str, str]) -> None:
        """Store the headers of an answer that begins, and remember the parts that were left out."""
        self._headers, self._is_sending = headers, False
        self.translator.content_type = headers.get("content-type", "")
        if turn_state := header_safe(headers.get("x-codex-turn-state")):
            self._turn.states[self._tokens.account_key] = turn_state
        # The names of parts of the input are stored with the answer instead.
        without = self.attempt.without
        self._turn.without = without - optional_parts.parts_of_input(without)
        memory.remember_refused(without, scopes(self._sent.info, self._tokens))
        self._notes += self._sent.notes
        endpoints.update_models(self._tokens, self._sent.models, headers.get("x-models-etag"))

    def refusal(self, status: int, headers: Mapping[str, str], content: bytes) -> ChatGPTError:
        """Build the error for a reply that is not an answer."""
        host = urlsplit(self._sent.arguments["url"]).netloc
        reply = http.Reply(status, headers, content, host)
        return refusals.explain_refusal(reply, self._refused_request())

    def end_round(self) -> Iterator[StreamEvent]:
        """Yield the stream's last events, and add the round to the answer.

        Another request follows if the model wants to go on (P171), and once if the answer is
        empty (P172). Raises the error that the stream has reported; StreamFailed if the stream was
        cut off.
        """
        yield from self.display.pass_on(self.translator.finish())
        if self.translator.ended == "failed":
            raise refusals.explain_stream_error(
                self.translator.error, self._headers, self._refused_request()
            )
        if self.translator.ended is None and self.translator.plain_body:
            raise self.refusal(200, self._headers, self.translator.plain_body)
        if self.translator.ended is None:
            raise StreamFailed(
                "The answer was cut off: the server closed the connection.",
                "Send the prompt again.",
                code="closed",
            )
        answer, round_ = self._answer, self.translator.round
        answer.rounds.append(round_)
        completed = round_.ended == "completed"
        wants_more = completed and round_.response.get("end_turn") is False
        has_calls = any(item.kind == "function_call" for item in round_.items)
        goes_on = wants_more and not has_calls
        is_empty = completed and not goes_on and not answer.has_content
        if is_empty:
            round_.exclude_reasoning()
        if goes_on and self._further_rounds == config.MAX_FURTHER_ROUNDS:
            goes_on = False
            self._notes.append(
                f"Note: stopped after {self._further_rounds} further requests, although the model "
                "wanted to go on."
            )
        acted = any(item.has_effects for item in answer.items)
        tries_again = is_empty and not acted and not self._retried_empty
        self.complete = not goes_on and not tries_again
        if not self.complete:
            self._further_rounds += goes_on
            self._retried_empty |= tries_again
            self.attempt = retry.Attempt(without=self.attempt.without)
            self.translator = EventTranslator()
        # The round is complete and will not be dropped, so llm gets the events held back so far.
        yield from self.display.pass_on(round_.take_events())

    # After an error

    def failed(self, error: ChatGPTError) -> None:
        """Prepare another attempt after an error, or end the answer early.

        Raises the error if neither is possible. At a usage limit it may ask the server for
        banked resets and Luna Reserve, so event loops call it in a thread.
        """
        if isinstance(error, ConnectionFailed):
            error = _broken_connection(error, started=self.translator.started)
        last, next_attempt, sent, tokens = self.attempt, None, self._sent, self._tokens
        if not self.translator.started:
            refused = optional_parts.refused_parts(
                error, sent.items, tokens, is_compressed=sent.is_compressed
            )
            next_attempt = retry.next_attempt(last, error, refused, tokens, time.time())
        if next_attempt is None:
            self._end_early(error)
            return
        self.attempt = next_attempt
        if isinstance(error, UsageLimitReached):
            notice(f"{error.reason}. Waiting, because LLM_CHATGPT_WAIT is set...")
        if error.tokens_refused:
            # A web page comes from a proxy, which cannot judge the login (P57).
            ends_login = error.code != refusals.WEB_PAGE
            self._unauthorized = error
            self.rejected = Rejection(self._tokens.access_token, error.date, ends_login)
        if next_attempt.resends > last.resends:
            wait = f" in {in_words(error.retry_after)}" if error.retry_after else ""
            allowed = retry.resends_allowed(error, self._tokens)
            count = f" ({next_attempt.resends} of {allowed})" if allowed > 1 else ""
            notice(f"{error.reason}; retrying{wait}{count}...")

    def _end_early(self, error: ChatGPTError) -> None:
        """Raise the error. If a further request failed (P171), end the answer there instead."""
        if isinstance(error, UsageLimitReached):
            endpoints.add_resets(error, self._tokens, self._sent.info.slug, self._key)
        refusal = self._unauthorized
        if isinstance(error, RefreshFailed) and refusal and self._tokens.earliest_refresh_at:
            # The reason for the 401 helps the user, too.
            reason = f"{refusal.reason}. {error.reason}."
            error = RefreshFailed(reason, error.advice, permanent=error.permanent, code=error.code)
        if not self._further_rounds:
            raise error
        if self.translator.started:
            self._answer.rounds.append(self.translator.round)
            # A call of a round that failed is recorded, but not run.
            self.translator.round.tool_calls.clear()
        self._notes.append(f"The model could not go on. {' '.join(error.message.split())}")
        self.complete = True

    def _refused_request(self) -> refusals.RefusedRequest:
        return refusals.RefusedRequest(
            self._tokens,
            login_command=self._tokens.route.login_command(self.credential.account),
            key_option=reached_limit.option_for_key("--key", self._key),
            slug=self._sent.info.slug,
            models=self._sent.models,
            has_files=self._sent.has_files,
        )

    # Afterwards

    def finish(self) -> Iterator[StreamEvent]:
        """Record the answer and print the notes after it. Yields the last events."""
        answer = self._answer
        memory.remember_turn(self._turn, (call.tool_call_id for call in answer.tool_calls))
        yield from self.display.pass_on(answer.repeat_commentary())
        if self._model.info.slug == DEFAULT.slug:
            # The service does not always say which model has answered.
            self._response.set_resolved_model(self._sent.info.slug)
        yield from self.display.pass_on(record.record(answer, self._headers, self._response))
        # The answer has arrived, so no error in the notes may lose it.
        with contextlib.suppress(Exception):
            other_notes = [record.sources(answer), *self._notes]
            # Each of these is its own subject.
            notes = {line: line for line in other_notes if line}
            notes |= record.notes(answer, self._headers, self._sent)
            if lines := self._turn.new_notes(notes):
                self.display.note("\n".join(lines))


def _broken_connection(error: ConnectionFailed, *, started: bool) -> StreamFailed:
    """Return an error that explains how a failed connection affects the answer."""
    if not started and not error.stalled:
        return StreamFailed(f"{error.reason}.", error.advice, code="connection")
    problem = "The answer was cut off" if started else "No answer from OpenAI"
    reason = f"{error.reason[0].lower()}{error.reason[1:]}"
    code = "connection"
    if error.stalled:
        reason, code = f"no data for {in_words(config.idle_timeout())}", "stalled"
    return StreamFailed(f"{problem}: {reason}.", "Send the prompt again.", code=code)
