"""Record the plugin's requests and their answers, for the live checks and for cassettes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from llm_chatgpt import clients, http
from llm_chatgpt.backend.sse import SSEDecoder
from llm_chatgpt.values import as_mapping, as_number, json_object


class Exchange:
    """A request and its answer, decompressed. `pieces` grows while the plugin reads the answer."""

    def __init__(self, response: Any):
        request = response.request
        self.url = str(request.url)
        self.method: str = request.method
        self.request_headers = dict(request.headers)
        self.request_content = _decompressed(request)
        self.status: int = response.status_code
        self.headers = dict(response.headers)
        self.pieces: list[bytes] = []

    @property
    def request_body(self) -> Mapping[str, Any]:
        """The request's JSON."""
        return json_object(self.request_content)

    @property
    def reply(self) -> http.Reply:
        return http.Reply(self.status, self.headers, b"".join(self.pieces))

    @property
    def events(self) -> list[Mapping[str, Any]]:
        decoder = SSEDecoder()
        frames = decoder.feed(self.reply.content) + decoder.flush()
        return [event for event in map(json_object, frames) if event]

    @property
    def items(self) -> list[Mapping[str, Any]]:
        """The finished items of the answer."""
        done = (e for e in self.events if e.get("type") == "response.output_item.done")
        return [as_mapping(event.get("item")) for event in done]

    @property
    def final_event(self) -> Mapping[str, Any]:
        """The last event with a `response`; empty if there is none."""
        return next((event for event in reversed(self.events) if "response" in event), {})

    @property
    def response(self) -> Mapping[str, Any]:
        """The response in the final event."""
        return as_mapping(self.final_event.get("response"))

    @property
    def usage(self) -> Mapping[str, Any]:
        """The usage in the final event, together with the fields of its details."""
        usage = as_mapping(self.response.get("usage"))
        input_details = as_mapping(usage.get("input_tokens_details"))
        return {**usage, **input_details, **as_mapping(usage.get("output_tokens_details"))}

    def token_count(self, name: str) -> int:
        """Return a number from the usage; 0 if it is missing."""
        return int(as_number(self.usage.get(name)) or 0)


def _decompressed(request: Any) -> bytes:
    """Decompress a request's content. HTTP libraries can decompress only a response's content."""
    encoding = {"Content-Encoding": request.headers.get("content-encoding", "identity")}
    response = clients.library().Response(200, headers=encoding, content=request.content)
    return bytes(response.content)


@contextlib.contextmanager
def recording() -> Iterator[list[Exchange]]:
    """Record the exchanges of the sync client. The list grows while the block runs."""
    exchanges: list[Exchange] = []
    client = clients.sync_client()
    old_hooks = client.event_hooks

    def record(response: Any) -> None:
        exchanges.append(exchange := Exchange(response))
        read = response.iter_bytes

        def iter_bytes() -> Iterator[bytes]:
            for piece in read():
                exchange.pieces.append(piece)
                yield piece

        response.iter_bytes = iter_bytes

    client.event_hooks = {**old_hooks, "response": [*old_hooks["response"], record]}
    try:
        yield exchanges
    finally:
        client.event_hooks = old_hooks
