"""Commentary and answer, and answers that take several requests."""

from __future__ import annotations

import json

import llm
import pytest
from llm.parts import ReasoningPart, TextPart

from conftest import logged, sign_in
from inputs import MODEL, add, assert_same_beginnings
from simulator import Account, Answer, Call, Refuse, Say, Search, Stream, Think, error_answer, sse
from terminal import Terminal, needs_pty


def comment(text, **options):
    return Say(text, phase="commentary", **options)


def sent_pairs(simulator):
    """The assistant's messages in the last request: text and phase."""
    return [
        ("".join(part["text"] for part in item["content"]), item.get("phase"))
        for item in simulator.prompts[-1]["input"]
        if item.get("role") == "assistant"
    ]


# What is shown


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_commentary_is_on_stderr_and_the_answer_on_stdout(simulator, signed_in, run_llm, options):
    for _ in range(2):
        simulator.answer(comment("I will look that up."), Search("x"), Say("Forty-two."))
    result = run_llm("-m", MODEL, "hi", *options)
    assert (result.stdout, result.stderr) == ("Forty-two.\n", "I will look that up.\n")
    result = run_llm("-m", MODEL, "hi", "-R", *options)
    assert (result.stdout, result.stderr) == ("Forty-two.\n", "")
    for row in logged(run_llm, 2):
        assert row["response"] == "Forty-two."
        assert row["reasoning"] == "I will look that up."


def test_commentary_is_recorded_as_reasoning_marked_as_a_message(simulator, signed_in, ask):
    simulator.answer(comment("One moment, please."), Say("Forty-two."))
    answered = ask("hi")
    asides = [event for event in answered.events if event.type == "reasoning"]
    assert "".join(event.chunk for event in asides) == "One moment, please."
    metadata = {"chatgpt": {"type": "message", "phase": "commentary"}}
    assert [event.provider_metadata for event in asides] == [metadata] * len(asides)
    assert answered.parts == [
        ReasoningPart("One moment, please.", provider_metadata=metadata),
        TextPart("Forty-two.", provider_metadata={"chatgpt": {"phase": "final_answer"}}),
    ]


def test_blank_lines_separate_reasoning_commentary_and_answers(simulator, signed_in, run_llm):
    deltas = ["Look", "ing.\n", "\nStill."]
    simulator.answer(
        Think(["one", "two"]),
        comment("".join(deltas), deltas=deltas),
        comment("There."),
        Think(["three"]),
        Say("Answer."),
        Think(["four", "five"]),
        Say("More."),
    )
    result = run_llm("-m", MODEL, "hi")
    assert result.stdout == "Answer.\n\nMore.\n"
    before = "one\n\ntwo\n\nLooking.\n\nStill.\n\nThere.\n\nthree\n"
    assert result.stderr == before + "\n\nfour\n\nfive\n"


def test_commentary_before_a_tool_call_is_sent_back(simulator, signed_in, run_llm):
    simulator.demands_phases = True
    simulator.answer(comment("I will add."), Call("add", {"a": 1, "b": 2}))
    simulator.answer(comment("Now I know."), Say("Three."))
    functions = "def add(a: int, b: int) -> int:\n    return a + b"
    result = run_llm("-m", MODEL, "1 + 2?", "--functions", functions)
    assert (result.stdout, result.stderr) == ("Three.\n", "I will add.\n\nNow I know.\n")
    assert sent_pairs(simulator) == [("I will add.", "commentary")]


@pytest.mark.parametrize("phase", ["partial_answer", "something_new", None])
def test_other_phases_are_answers(simulator, signed_in, ask, phase):
    simulator.answer(Say("Forty-two.", phase=phase))
    assert ask("hi").text == "Forty-two."


def test_a_phase_that_is_not_text_is_ignored(simulator, signed_in, ask):
    frames = list(simulator.frames([Say("Forty-two.", phase={"a": 1})]))
    simulator.script("responses", Stream(frames))
    conversation = ask.model().conversation()
    assert ask.finish(lambda: conversation.prompt("hi")).text == "Forty-two."
    assert ask.finish(lambda: conversation.prompt("on")).text
    assert sent_pairs(simulator) == [("Forty-two.", None)]


def test_a_phase_that_comes_at_the_end_changes_only_what_is_sent_back(simulator, signed_in, ask):
    simulator.demands_phases = True
    simulator.answer(comment("I will look.", phase_in="done"), Say("Here.", phase_in="added"))
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    assert (answered.text, answered.reasoning) == ("I will look.\n\nHere.", "")
    assert ask.finish(lambda: conversation.prompt("on")).text
    assert sent_pairs(simulator) == [("I will look.", "commentary"), ("Here.", "final_answer")]


@pytest.mark.parametrize("between", [[], [Search("x")], [Think(["Hm."])], [comment("Hm.")]])
def test_answer_messages_are_separated_by_a_blank_line(simulator, signed_in, ask, between):
    simulator.demands_phases = True
    simulator.answer(Say("One."), *between, Say("Two.", phase=None), Refuse("No three."))
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    assert answered.text == "One.\n\nTwo.\n\nNo three."
    texts = [part for part in answered.parts if isinstance(part, TextPart)]
    assert [part.text for part in texts] == ["One.", "\n\n", "Two.", "\n\n", "No three."]
    assert ask.finish(lambda: conversation.prompt("on")).text
    back = [pair for pair in sent_pairs(simulator) if pair[0] != "Hm."]
    assert back == [("One.", "final_answer"), ("Two.", None), ("No three.", "final_answer")]


@pytest.mark.parametrize("items", [[comment("One."), Say("Two.")], [Say("Two."), comment("One.")]])
def test_commentary_does_not_count_as_hidden_reasoning(simulator, signed_in, run_llm, ask, items):
    usage = {"input_tokens": 1, "output_tokens_details": {"reasoning_tokens": 5}}
    simulator.answer(*items, usage=usage)
    simulator.answer(*items, usage=usage)
    redacted = [part.redacted for part in ask("hi").parts if isinstance(part, ReasoningPart)]
    assert redacted.count(True) == 1
    assert run_llm("-m", MODEL, "hi").stdout == "Two.\n"


def test_a_message_that_is_announced_late_stays_an_answer(simulator, signed_in, ask):
    created, _, added, *rest = simulator.frames([comment("I will look.")])
    simulator.script("responses", Stream([created, *rest[:2], added, *rest[2:]]))
    conversation = ask.model().conversation()
    assert ask.finish(lambda: conversation.prompt("hi")).text == "I will look."
    assert ask.finish(lambda: conversation.prompt("on")).text
    assert sent_pairs(simulator) == [("I will look.", "commentary")]


def test_a_commentary_in_pieces_is_one_text(simulator, signed_in, ask):
    frames = list(simulator.frames([comment("I will look.")]))
    place = {"output_index": 0, "content_index": 1}
    more = sse({"type": "response.output_text.delta", **place, "delta": " Soon."})
    parts = [{"type": "output_text", "text": text} for text in ("I will look.", " Soon.")]
    item = {"type": "message", "phase": "commentary", "content": parts}
    done = sse({"type": "response.output_item.done", "output_index": 0, "item": item})
    simulator.script("responses", Stream([*frames[:-3], more, done, frames[-1]]))
    assert ask("hi").reasoning == "I will look. Soon."


# Nothing but commentary


@pytest.mark.parametrize("terminal", ["completed", "incomplete"])
def test_an_answer_of_commentary_only_is_repeated_as_text(simulator, signed_in, ask, terminal):
    simulator.demands_phases = True
    simulator.answer(
        comment("First."), Search("x"), comment("Second."), Think(["Hm."]), terminal=terminal
    )
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    assert answered.text == "First.\n\nSecond."
    assert isinstance(answered.parts[-1], TextPart)
    assert ask.finish(lambda: conversation.prompt("on")).text
    assert sent_pairs(simulator) == [("First.", "commentary"), ("Second.", "commentary")]


def test_a_commentary_that_breaks_off_is_repeated(simulator, signed_in, run_llm):
    frames = list(simulator.frames([comment("I will"), Call("add", {})], terminal="incomplete"))
    cut = [frame for frame in frames if b"output_item.done" not in frame]
    simulator.script("responses", Stream(cut))
    result = run_llm("-m", MODEL, "hi", "-R", "--functions", "def add(): pass")
    assert result.stdout == "I will\n"
    assert run_llm("-c", "on").exit_code == 0
    assert sent_pairs(simulator) == [("I will", "commentary")]


def test_commentary_and_a_tool_call_are_not_repeated(simulator, signed_in, ask):
    simulator.demands_phases = True
    simulator.answer(comment("I will add."), Call("add", {"a": 1, "b": 2}))
    simulator.answer(Say("Three."))
    first, last = ask.chain(ask.model(), "1 + 2?", tools=[add])
    assert (first.text_or_raise(), last.text_or_raise()) == ("", "Three.")


# Later requests


def test_phases_go_back_as_they_came(simulator, signed_in, ask):
    simulator.demands_phases = True
    conversation = ask.model().conversation()
    for turn in range(3):
        deltas = [" Looking\n\n", "up ", "\N{PILE OF POO}\n "]
        simulator.answer(
            Think(["Hm."]),
            comment("".join(deltas), deltas=deltas),
            Search("x"),
            comment(f"Nearly {turn}.", phase_in="added"),
            Call("add", {"a": turn, "b": 2}),
        )
        simulator.answer(
            Say("\nOne.\n", phase=None),
            Say("Two.", phase_in="done"),
            Say("Three.", phase="partial_answer"),
            Refuse("Four."),
            comment("Five."),
        )
        ask.chain(conversation, f"Question {turn}", tools=[add])
    ask.finish(lambda: conversation.prompt("And?", tools=[add]))
    assert len(sent_pairs(simulator)) == 3 * 7
    assert_same_beginnings(simulator)


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_phases_survive_the_logs(simulator, signed_in, run_llm, options):
    simulator.demands_phases = True
    simulator.answer(Think(["Hm."]), comment("Looking."), Say("One."), Say("Two.", phase=None))
    assert run_llm("-m", MODEL, "hi", *options).exit_code == 0
    simulator.answer(comment("Only this."))
    assert run_llm("-c", "more", *options).stdout == "Only this.\n"
    assert run_llm("-c", "on", *options).exit_code == 0
    assert sent_pairs(simulator) == [
        ("Looking.", "commentary"),
        ("One.", "final_answer"),
        ("Two.", None),
        ("Only this.", "commentary"),
    ]
    assert_same_beginnings(simulator)
    assert [row["response"] for row in logged(run_llm, 3)][:2] == ["One.\n\nTwo.", "Only this."]


def test_phases_survive_to_dict(simulator, signed_in):
    simulator.demands_phases = True
    simulator.answer(comment("Looking."), Say("One."), Say("Two."))
    response = llm.get_model(MODEL).prompt("hi")
    assert response.text() == "One.\n\nTwo."
    again = llm.Response.from_dict(json.loads(json.dumps(response.to_dict())))
    assert again.text() == "One.\n\nTwo."
    assert again.messages() == response.messages()
    assert again.reply("on").text()
    assert [phase for _, phase in sent_pairs(simulator)] == ["commentary", *["final_answer"] * 2]


def test_messages_without_a_phase_go_back_one_by_one(simulator, signed_in, ask):
    simulator.demands_phases = True
    history = [
        llm.user("hi"),
        llm.assistant(TextPart("I will look that up."), TextPart("Forty-two.")),
        llm.user("on"),
    ]
    assert ask(messages=history).text
    assert simulator.prompts[-1]["input"][1:3] == [
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": text}],
        }
        for text in ("I will look that up.", "Forty-two.")
    ]


def test_commentary_goes_to_every_account(simulator, signed_in, ask):
    simulator.answer(Think(["Hm."]), comment("Looking."), Say("Forty-two."))
    first = ask("hi")
    simulator.account = Account(email="bob@example.com", account_id="acc-bob", user_id="user-bob")
    sign_in(simulator, "bob")
    ask(messages=[llm.user("hi"), *first.messages, llm.user("on")], key="bob")
    assert sent_pairs(simulator) == [("Looking.", "commentary"), ("Forty-two.", "final_answer")]
    assert "reasoning" not in [item["type"] for item in simulator.prompts[-1]["input"]]


# The model wants to go on


def answer_and_go_on(simulator, *items, **changes):
    simulator.answer(*items, end_turn=False, **changes)


def test_rounds_are_one_answer(simulator, signed_in, ask):
    simulator.demands_phases = True
    usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    details = {"input_tokens_details": {"cached_tokens": 4}}
    citation = {"type": "url_citation", "url": "https://a.example", "title": "A"}
    answer_and_go_on(simulator, Think(["Hm."]), comment("Looking."), Search("x"), usage=usage)
    answer_and_go_on(simulator, comment("Nearly."), Say("One.", annotations=[citation]), usage=None)
    simulator.answer(Think(["Ah."]), Say("Two."), end_turn=True, usage={**usage, **details})
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    assert answered.text == "One.\n\nTwo."
    assert answered.reasoning == "Hm.\n\nLooking.\n\nNearly.\n\nAh."
    response = answered.response
    assert (response.input_tokens, response.output_tokens) == (20, 4)
    assert response.token_details == details
    assert answered.json["usage"] == {**{k: 2 * v for k, v in usage.items()}, **details}
    assert [item["type"] for item in answered.json["output"]] == [
        "reasoning",
        "message",
        "web_search_call",
        "message",
        "message",
        "reasoning",
        "message",
    ]
    # Part numbers continue across the rounds, so no part mixes the text of two items.
    texts = [part.text for part in answered.parts if isinstance(part, (TextPart, ReasoningPart))]
    assert "|".join(texts) == "Hm.\n\n|Looking.|\n\n|Nearly.|One.|\n\n|Ah.|\n\n|Two."
    assert len(answered.messages) == 4
    ask.finish(lambda: conversation.prompt("more"))
    assert len(simulator.prompts) == 4
    assert [text for text, _ in sent_pairs(simulator)] == ["Looking.", "Nearly.", "One.", "Two."]
    assert_same_beginnings(simulator)


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_rounds_are_one_record_in_the_logs(simulator, signed_in, run_llm, options):
    simulator.demands_phases = True
    answer_and_go_on(simulator, comment("Looking."))
    simulator.answer(Say("Forty-two."))
    result = run_llm("-m", MODEL, "hi", "-o", "temperature", "1", *options)
    assert result.stdout == "Forty-two.\n"
    note = "Note: ignoring temperature; a ChatGPT login does not accept it.\n"
    assert result.stderr == f"Looking.\n{note}"
    (row,) = logged(run_llm, 9)
    assert (row["response"], row["reasoning"]) == ("Forty-two.", "Looking.")
    assert run_llm("-c", "on", *options).exit_code == 0
    assert_same_beginnings(simulator)


def test_a_model_goes_on_five_times_at_most(simulator, signed_in, run_llm):
    for number in range(9):
        answer_and_go_on(simulator, Say(f"{number}."))
    result = run_llm("-m", MODEL, "hi")
    assert result.exit_code == 0
    assert result.stdout == "\n\n".join(f"{number}." for number in range(6)) + "\n"
    assert result.stderr == (
        "Note: stopped after 5 further requests, although the model wanted to go on.\n"
    )
    assert len(simulator.prompts) == 6
    assert len(logged(run_llm, 9)) == 1


def test_a_tool_call_comes_before_going_on(simulator, signed_in, ask):
    answer_and_go_on(simulator, comment("I will add."), Call("add", {"a": 1, "b": 2}))
    simulator.answer(Say("Three."))
    first, last = ask.chain(ask.model(), "1 + 2?", tools=[add])
    assert (first.text_or_raise(), last.text_or_raise()) == ("", "Three.")
    assert len(simulator.prompts) == 2


def test_an_incomplete_answer_does_not_go_on(simulator, signed_in, ask):
    answer_and_go_on(simulator, Say("Half of"), terminal="incomplete")
    assert ask("hi").text == "Half of"
    assert len(simulator.prompts) == 1


def cut(simulator, *items):
    """An answer without its last event: the connection closes instead."""
    body = {"model": "gpt-6-luna", "input": [], "include": ["reasoning.encrypted_content"]}
    return Stream(list(simulator.frames(list(items), body))[:-1])


def failed(simulator, *items):
    error = {"code": "server_error", "message": "It broke."}
    return Stream(list(simulator.frames(list(items), terminal="failed", error=error)))


HALF = "The answer.\n\nHalf of"
CLOSED = "The answer was cut off: the server closed the connection."


@pytest.mark.parametrize("options", [[], ["--async"]])
@pytest.mark.parametrize(
    ("faults", "shown", "line"),
    [
        (
            lambda _: [error_answer(429, "usage_limit_reached")],
            "The answer.",
            "The usage limit of your ChatGPT plan is reached",
        ),
        (lambda _: [error_answer(400, None, "No.")], "The answer.", "OpenAI refused"),
        (lambda _: [Answer(drop=True)] * 5, "The answer.", "The connection to 127.0.0.1"),
        (lambda simulator: [cut(simulator, Think([]))] * 5, "The answer.", CLOSED),
        (lambda simulator: [cut(simulator, Say("Half of"))], HALF, CLOSED),
        (lambda simulator: [failed(simulator, Say("Half of"))], HALF, "OpenAI could not finish"),
    ],
    ids=["limit", "refusal", "connection", "unseen", "cut", "failed"],
)
def test_earlier_rounds_are_kept_if_a_later_round_fails(
    simulator, signed_in, run_llm, short_pauses, faults, shown, line, options
):
    frames = list(simulator.frames([Say("The answer.")], end_turn=False))
    failing = faults(simulator)
    simulator.script("responses", Stream(frames), *failing)
    result = run_llm("-m", MODEL, "hi", *options)
    assert (result.exit_code, result.stdout) == (0, f"{shown}\n")
    *retries, last = result.stderr.splitlines()
    assert last.startswith(f"The model could not go on. {line}")
    assert len(retries) == len(failing) - 1
    (row,) = logged(run_llm, 9)
    assert row["response"] == shown
    assert row["response_json"]["status"] == "completed"
    # The conversation can go on.
    assert run_llm("-c", "on", *options).exit_code == 0
    assert [text for text, _ in sent_pairs(simulator)] == shown.split("\n\n")
    # An attempt that showed nothing leaves nothing.
    assert "reasoning" not in [item["type"] for item in simulator.prompts[-1]["input"]]


def test_a_call_in_a_later_round_that_fails_is_not_carried_out(simulator, signed_in, run_llm):
    frames = list(simulator.frames([comment("I will add.")], end_turn=False))
    simulator.script("responses", Stream(frames), cut(simulator, Call("add", {})))
    functions = "def add():\n    raise SystemExit('ran')"
    result = run_llm("-m", MODEL, "hi", "-R", "--functions", functions)
    assert (result.exit_code, result.stdout) == (0, "I will add.\n")
    assert result.stderr == f"The model could not go on. {CLOSED} Send the prompt again.\n"
    assert len(simulator.prompts) == 2


def test_a_logout_between_rounds_keeps_the_answer(simulator, signed_in, ask, run_llm, caplog):
    def frames():
        *begin, last = simulator.frames([comment("Looking.")], end_turn=False)
        yield from begin
        # Before the last event, after which the plugin sends the next request at once.
        run_llm("chatgpt", "logout", "--all")
        yield last

    simulator.script("responses", Stream(frames()))
    assert ask("hi").text == "Looking."
    (record,) = caplog.records
    assert record.message.startswith("The model could not go on. ")
    assert "Run 'llm chatgpt login'" in record.message


def test_a_later_round_is_sent_again_if_none_of_it_was_shown(
    simulator, signed_in, run_llm, short_pauses
):
    first = list(simulator.frames([Say("One.")], end_turn=False))
    dropped = list(simulator.frames([Think([]), Say("Two.")]))[:4]
    simulator.script("responses", Stream(first), Stream(dropped), Answer(503))
    simulator.answer(Say("Two."))
    result = run_llm("-m", MODEL, "hi")
    assert result.stdout == "One.\n\nTwo.\n"
    ends = [line[-20:] for line in result.stderr.splitlines()]
    assert ends == ["retrying (1 of 4)...", "retrying (2 of 4)..."]
    (row,) = logged(run_llm, 9)
    assert [item["type"] for item in row["response_json"]["output"]] == ["message"] * 2


@needs_pty
def test_each_note_begins_a_new_line_on_a_terminal(simulator, signed_in):
    frames = list(simulator.frames([comment("Looking."), Say("One.")], end_turn=False))
    failing = [Answer(503, headers={"Retry-After": "0"})] * 2
    simulator.script("responses", Stream(frames), *failing, error_answer(400, None, "No."))
    terminal = Terminal("-m", MODEL, "hi")
    assert terminal.end() == 0
    lines = terminal.screen.replace("\r", "").splitlines()
    assert lines[:4] == [
        "Looking.",
        "One.",
        "OpenAI server error (503); retrying (1 of 4)...",
        "OpenAI server error (503); retrying (2 of 4)...",
    ]
    assert lines[4].startswith("The model could not go on. OpenAI refused the request: No.")


def test_a_refused_part_is_left_out_of_later_rounds(simulator, signed_in, ask):
    simulator.refuses_summary = {"gpt-6-luna"}
    answer_and_go_on(simulator, Say("One."))
    simulator.answer(Say("Two."))
    assert ask("hi").text == "One.\n\nTwo."
    assert ["reasoning" in body for body in simulator.prompts] == [True, False, False]


def test_ctrl_c_in_a_later_round_logs_nothing(simulator, signed_in, run_llm, monkeypatch):
    answer_and_go_on(simulator, Say("One."))
    # Each round first sleeps for its pause. The second one is interrupted.
    waits = iter([None, KeyboardInterrupt])

    def pause(seconds):
        if stop := next(waits):
            raise stop

    monkeypatch.setattr("llm_chatgpt_oauth.time.sleep", pause)
    result = run_llm("-m", MODEL, "hi")
    assert result.exit_code != 0
    assert logged(run_llm, 9) == []


def test_the_turn_state_goes_along_with_further_rounds(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    answer_and_go_on(simulator, Say("One."))
    simulator.answer(Say("Two."))
    for text in ("hi", "on"):
        ask.finish(lambda text=text: conversation.prompt(text))
    states = [r.headers.get("x-codex-turn-state") for r in simulator.seen("/codex/responses")]
    assert [state is not None for state in states] == [False, True, False]


def test_a_new_system_prompt_stays_in_its_place(simulator, signed_in, run_llm):
    run_llm("-m", MODEL, "hi", "-s", "Be brief.")
    answer_and_go_on(simulator, Say("One."))
    simulator.answer(Say("Two."))
    assert run_llm("-c", "on", "-s", "Be long.").stdout == "One.\n\nTwo.\n"
    roles = [item.get("role") for item in simulator.prompts[-1]["input"]]
    assert roles == ["developer", "user", None, "assistant", "developer", "user", "assistant"]
