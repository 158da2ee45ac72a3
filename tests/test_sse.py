"""The decoder of server-sent events."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_chatgpt.backend.sse import SSEDecoder


def decode(*chunks: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    found = [data for chunk in chunks for data in decoder.feed(chunk)]
    return found + decoder.flush()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The examples of the standard.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
        (
            b": test\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third\n\n",
            [b"first event", b"second event", b" third"],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [b""]),
        (b"data:test\n\ndata: test\n\n", [b"test", b"test"]),
        # Line ends.
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
        (b"data: a\n\r\ndata: b\n\n", [b"a", b"b"]),
        # Comments, unknown fields, junk.
        (b": keepalive\n\nretry: 5\n\njunk\n\ndata: a\n\n", [b"a"]),
        (b"event: x\ndata: a\nwhatever: b\n\n", [b"a"]),
        (b"\n\n\n\ndata: a\n\n\n\n\n", [b"a"]),
        # U+2028, U+0085 and form feeds do not end lines.
        ("data: a\u2028b\u0085c\x0b\x0cd\n\n".encode(), ["a\u2028b\u0085c\x0b\x0cd".encode()]),
        # No blank line at the end.
        (b"data: a\n\ndata: b", [b"a", b"b"]),
        (b"", []),
    ],
)
def test_events_are_decoded_as_the_standard_says(text, expected):
    assert decode(text) == expected
    # One byte at a time.
    assert decode(*(text[i : i + 1] for i in range(len(text)))) == expected


FIELDS = [b"data: ", b"data:", b"data", b": c", b"event: x"]
LINE_ENDS = [b"\n", b"\n\n", b"\r", b"\r\n"]
VALUES = ["\u00e9".encode(), "\u2028".encode(), b"{}", b" ", b"\xff", b"x" * 50]
PIECES = st.sampled_from(FIELDS + LINE_ENDS + VALUES)


@given(st.lists(PIECES, max_size=40), st.lists(st.integers(0, 400), max_size=10))
def test_the_bytes_may_be_cut_anywhere(pieces, cuts):
    text = b"".join(pieces)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    chunks = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert decode(*chunks) == decode(text)


def test_an_event_is_returned_as_soon_as_it_is_complete():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\n") == [b"a"]
    # Nothing more is needed after CR CR.
    assert decoder.feed(b"data: b\r\r") == [b"b"]
    assert decoder.feed(b"\ndata: c\n\n") == [b"c"]


def test_a_very_long_event_takes_linear_time():
    def seconds(size: int) -> float:
        decoder = SSEDecoder()
        start = time.process_time()
        decoder.feed(b"data: ")
        for _ in range(size // 65536):
            assert decoder.feed(b"x" * 65536) == []
        assert len(decoder.feed(b"\n\n")[0]) == size // 65536 * 65536
        return time.process_time() - start

    small = min(seconds(2_000_000) for _ in range(3))
    assert seconds(20_000_000) < 40 * small + 0.5
