"""Decode bytes to server-sent events."""

from __future__ import annotations


def is_event_stream(content_type: str, begin: bytes) -> bool:
    """Check whether a reply is a stream of events, by its type and its first byte.

    The service's own streams have no type (docs/protocol.md). Anything but a stream has one, or
    begins like HTML or JSON.
    """
    first = begin.lstrip()[:1]
    if not content_type or "event-stream" in content_type.lower():
        return first not in (b"<", b"{", b"[")
    # The fields of an event, a comment, or a byte order mark.
    return first in (b"d", b"e", b"i", b"r", b":", b"\xef")


class SSEDecoder:
    """Decodes the data of each complete event from bytes that are cut anywhere.

    Works on bytes, so that U+2028 is no line end and a character may be cut in two. Comments
    and other fields are skipped. The response's headers do not matter: the service sends no
    Content-Type (docs/protocol.md).
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self) -> None:
        # The beginning of a line, in pieces, so that a long line takes linear time.
        self._line: list[bytes] = []
        # How many bytes that is.
        self.pending = 0
        self._data: list[bytes] = []
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that this chunk completes."""
        # The line of a CR has ended already; its LF may come in the next chunk.
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        *ended, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = []
        for end in ended:
            self._line.append(end)
            events += self._end_line()
        self._line.append(rest)
        self.pending += len(rest)
        return events

    def flush(self) -> list[bytes]:
        """Return the event at the end of the stream that no blank line follows."""
        return self._end_line() + self._end_line()

    def _end_line(self) -> list[bytes]:
        """Return the event that ends with this line, if there is one."""
        line = b"".join(self._line)
        self._line, self.pending = [], 0
        if self._at_start:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            event, self._data = b"\n".join(self._data), []
            return [event]
        return []
