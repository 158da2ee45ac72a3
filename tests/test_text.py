"""Times and lengths of time in words."""

from __future__ import annotations

import pytest

from llm_chatgpt import text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (0.4, "0.4 seconds"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (61, "1 minute"),
        (3600, "1 hour"),
        (8100, "2 hours 15 minutes"),
        (90000, "1 day 1 hour"),
        (-5, "0 seconds"),
    ],
)
def test_lengths_of_time_are_given_in_words(seconds, words):
    assert text.in_words(seconds) == words


@pytest.mark.parametrize("moment", [1e20, -1e20, float("nan")])
def test_a_moment_outside_the_calendar_is_an_unknown_time(moment):
    assert text.local_time(moment) == "an unknown time"
