"""What is sent and received while a block runs, to be read a second time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from llm_chatgpt import clients, http
from llm_chatgpt.backend.sse import SSEDecoder
from llm_chatgpt.values import as_mapping


class Recorded:
    """A request and its answer, whose body grows while the plugin reads it."""

    def __init__(self, response: Any):
        request = response.request
        self.method: str = request.method
        self.url = str(request.url)
        self.request_headers = dict(request.headers)
        self.request_body = _decoded(self.request_headers, request.content)
        self.status: int = response.status_code
        self.headers = dict(response.headers)
        self.pieces: list[bytes] = []

    @property
    def body(self) -> Mapping[str, Any]:
        """The request's JSON."""
        return _json(self.request_body)

    @property
    def reply(self) -> http.Reply:
        return http.Reply(self.status, self.headers, _decoded(self.headers, b"".join(self.pieces)))

    @property
    def events(self) -> list[Mapping[str, Any]]:
        decoder = SSEDecoder()
        frames = decoder.feed(self.reply.content) + decoder.flush()
        return [event for event in map(_json, frames) if event]

    @property
    def final_event(self) -> Mapping[str, Any]:
        """The last event that has a response; empty without one."""
        ends = [event for event in self.events if "response" in event]
        return as_mapping(ends[-1] if ends else None)

    @property
    def response(self) -> Mapping[str, Any]:
        """What the answer's last event says of it; empty if none does."""
        return as_mapping(self.final_event.get("response"))


def _json(data: bytes) -> Mapping[str, Any]:
    return as_mapping(http.Reply(200, {}, data).data)


def _decoded(headers: Mapping[str, str], content: bytes) -> bytes:
    """A body without its compression; empty if it was cut off."""
    library = clients.library()
    encoding = {"Content-Encoding": headers.get("content-encoding", "identity")}
    with contextlib.suppress(library.DecodingError):
        return bytes(library.Response(200, headers=encoding, content=content).content)
    return b""


@contextlib.contextmanager
def recording() -> Iterator[list[Recorded]]:
    """Record what the sync client sends and receives; the list grows with each answer."""
    recorded: list[Recorded] = []
    client = clients.sync_client()
    before = client.event_hooks

    def record(response: Any) -> None:
        recorded.append(one := Recorded(response))
        response.stream = _copying(response.stream, one.pieces)

    client.event_hooks = {**before, "response": [*before["response"], record]}
    try:
        yield recorded
    finally:
        client.event_hooks = before


def _copying(stream: Any, pieces: list[bytes]) -> Any:
    """The stream of a body, which also puts what is read of it into `pieces`."""

    class Copying(clients.library().SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            for piece in stream:
                pieces.append(piece)
                yield piece

        def close(self) -> None:
            stream.close()

    return Copying()
