"""Decode bytes to server-sent events."""

from __future__ import annotations


def is_event_stream(begin: bytes) -> bool:
    """Check whether a reply is a stream of events, by its first byte.

    The service's own streams have no Content-Type (P154). Anything but a stream (P158) begins like
    HTML or JSON, or with words.
    """
    # The fields of an event (data, event, id, retry), or a comment.
    return begin.lstrip()[:1] in (b"d", b"e", b"i", b"r", b":")


class SSEDecoder:
    """Decodes the data of each complete event from bytes that are cut anywhere.

    Works on bytes, so that U+2028 is no line end and a character may be cut in two. Comments and
    other fields are skipped. Lines end in LF or CRLF; unlike the standard, a CR alone ends none,
    and no byte order mark is expected.
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self) -> None:
        # The beginning of a line, in pieces, so that a long line takes linear time.
        self._line: list[bytes] = []
        # How many bytes that is.
        self.pending = 0
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that this chunk completes."""
        *ended, rest = chunk.split(b"\n")
        events = []
        for end in ended:
            line = b"".join([*self._line, end]).removesuffix(b"\r")
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
        """Return the event at the end of the stream that no blank line follows."""
        return self.feed(b"\n\n")
