"""Bytes -> server-sent events."""

from __future__ import annotations


class SSEDecoder:
    """Bytes in any pieces -> the data of each complete server-sent event.

    Works on bytes, so that neither a character cut in two nor U+2028 can split a line.
    Line ends are LF, CR and CRLF; comments and other fields are passed over. Nothing else
    of the response is looked at: the service sends no Content-Type (responses.md 6).
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Up to here the buffer holds no end of an event; keeps long events linear.
        self._searched = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_lf(chunk)
        buffer = self._buffer
        buffer += chunk
        end = buffer.rfind(b"\n\n", self._searched)
        if end < 0:
            self._searched = max(0, len(buffer) - 1)
            return []
        events = bytes(buffer[:end])
        del buffer[: end + 2]
        self._searched = 0
        return self._data_of(events)

    def flush(self) -> list[bytes]:
        """What stands at the end without a blank line behind it."""
        events = bytes(self._buffer)
        self._buffer.clear()
        return self._data_of(events)

    def _with_lf(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _data_of(self, events: bytes) -> list[bytes]:
        if self._at_start:
            events = events.removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        found = []
        for event in events.split(b"\n\n"):
            # Nearly all are one line with a name and one with data (a benchmark's row).
            name, separator, data = event.partition(b"\ndata: ")
            if separator and b"\n" not in data and b"\n" not in name and name[:5] != b"data:":
                found.append(data)
                continue
            lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                found.append(b"\n".join(line.removeprefix(b" ") for line in lines))
        return found
