"""Decode bytes into server-sent events."""

from __future__ import annotations

# The fields of an event, and the beginning of a comment.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def is_event_stream(content_type: str, begin: bytes) -> bool:
    """Check whether a reply is a stream of events, by its Content-Type and its first chunk.

    The service's own streams have no Content-Type (P154). Other replies (P158) have one, or begin
    like HTML or JSON.
    """
    begin = begin.lstrip()
    if not content_type or "event-stream" in content_type.lower():
        return begin[:1] not in (b"<", b"{", b"[")
    # The chunk may end within the name of a field.
    return any(begin.startswith(field[: len(begin)]) for field in _FIELDS)


class SSEDecoder:
    """Decodes the data of events from chunks of bytes, which may be split anywhere.

    Works on bytes, so that U+2028 does not end a line and characters may be split. Comments and
    other fields are skipped. Lines end in LF, CRLF or CR.
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self) -> None:
        # The pieces of an unfinished line. They are joined at its end, in linear time.
        self._line: list[bytes] = []
        # The number of bytes in these pieces.
        self.pending = 0
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that this chunk completes."""
        # A CR at the end of a chunk has ended its line. The next chunk may begin with its LF.
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        *ended, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = []
        for end in ended:
            line = b"".join([*self._line, end])
            self._line, self.pending = [], 0
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        self._line.append(rest)
        self.pending += len(rest)
        return events

    def flush(self) -> list[bytes]:
        """Return the last event if the stream ends without a blank line after it."""
        return self.feed(b"\n\n")
