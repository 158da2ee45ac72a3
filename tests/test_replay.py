"""A conversation sends the same bytes from memory, from llm's logs, and from a dict."""

from __future__ import annotations

import asyncio
import itertools
import json

import llm
import sqlite_utils
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from llm.cli import load_conversation

from conftest import kinds, multiply
from simulator import PNG, Call, Draw, Say, Search, Think

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
# Arguments as a model may write them.
ARGUMENTS = st.sampled_from(
    [
        *('{"text":"a","number":1}', '{ "number": 1e2, "text": "\\u00e9é" }', '{"text": "a"}'),
        *('{"number":1,"number":2}', '{"text":"\\/"}', "{}", "", "[1,2]", "{broken"),
    ]
)
ACTIONS = st.sampled_from([..., None, {}, {"type": "other"}, {"type": "open_page", "url": None}])
ITEM = st.one_of(
    st.builds(Think, st.lists(TEXT, max_size=2)),
    st.builds(Say, TEXT, phase=st.sampled_from(["final_answer", "commentary", None])),
    st.builds(Search, TEXT, action=ACTIONS),
    st.builds(Draw, TEXT),
    st.builds(Call, st.just("note"), ARGUMENTS),
)
ATTACHMENT = st.sampled_from(
    [
        llm.Attachment(type="image/png", content=PNG),
        llm.Attachment(type="text/plain", content=b"Buy fish."),
        llm.Attachment(type="image/png", url="https://a.example/a.png"),
    ]
)
TURN = st.fixed_dictionaries(
    {
        "prompt": TEXT,
        "system": st.none() | TEXT,
        "attachments": st.lists(ATTACHMENT, max_size=2),
        "slug": st.sampled_from(["gpt-6-luna", "gpt-6-luna", "gpt-6-sol"]),
        "answers": st.lists(st.lists(ITEM, min_size=1, max_size=4), min_size=1, max_size=2),
    }
)


def note(text: str = "", number: float = 0) -> str:
    "Note a text"
    return f"{text} {number}"


def take_turn(ask, simulator, conversation, database, turn):
    """Run one turn with its tools, log it as llm does, and return the last response."""
    for items in turn["answers"]:
        simulator.answer(*items)
    conversation.model = ask.model(turn["slug"])
    options = {name: turn[name] for name in ("system", "attachments")}
    responses = ask.chain(conversation, turn["prompt"], tools=[note], chain_limit=0, **options)
    # Drop the answers that the chain did not use.
    simulator.answers.clear()
    for response in responses:
        if ask.kind == "async":
            asyncio.run(response.to_sync_response()).log_to_db(database)
        else:
            response.log_to_db(database)
    return responses[-1]


def reply(ask, response):
    if ask.kind == "sync":
        response.reply("And?", prompt_cache_key="k").text()
        return

    async def run():
        answer = await response.reply("And?", prompt_cache_key="k")
        await answer.text()

    asyncio.run(run())


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(turns=st.lists(TURN, min_size=1, max_size=3))
def test_a_conversation_sends_the_same_bytes(simulator, signed_in, ask, tmp_path, turns):
    path = tmp_path / "logs.db"
    simulator.used_percent = {"primary": 0.0, "secondary": 0.0}
    database = sqlite_utils.Database(path)
    # The simulator then reports reasoning of another origin (see below) instead of refusing it.
    simulator.removes_reasoning = True
    begin = len(simulator.seen("/codex/responses"))
    conversation = ask.model().conversation()
    for turn in turns:
        last = take_turn(ask, simulator, conversation, database, turn)
        # An empty answer has no part that could store how its request was made.
        assume(any(message["parts"] for message in last.to_dict()["messages"]))
    sent = simulator.seen("/codex/responses")[begin:]
    from_logs = load_conversation(conversation.id, async_=ask.kind == "async", database=path)
    from_dict = type(last).from_dict(json.loads(json.dumps(last.to_dict())))
    for each in (from_logs, conversation):
        ask.finish(lambda each=each: each.prompt("And?", prompt_cache_key="k"))
    reply(ask, from_dict)
    bodies = [request.raw for request in simulator.seen("/codex/responses")[-3:]]
    assert bodies[0] == bodies[1] == bodies[2]
    owner = simulator.account.account_id
    for request in simulator.seen("/codex/responses")[begin:]:
        assert simulator.reasoning.removals(request.body, owner) == []
    # Each request begins with the bytes of the one before, unless the model changes.
    for earlier, later in itertools.pairwise([*(request.raw for request in sent), bodies[0]]):
        if json.loads(earlier)["model"] == json.loads(later)["model"]:
            before, after = (body.partition(b',"input":')[2] for body in (earlier, later))
            assert after.startswith(before[: -len(b"]}")])


def test_a_response_from_a_dict_can_be_continued(simulator, signed_in):
    simulator.answer(Think(["Hm."]), Call("multiply", {"a": 6, "b": 7}))
    model = llm.get_model("chatgpt-gpt-6-luna")
    first = model.prompt("What is 6 times 7?", tools=[multiply])
    data = json.loads(json.dumps(first.to_dict()))
    again = llm.Response.from_dict(data)
    simulator.answer(Say("It is 42."))
    assert again.reply(tools=[multiply]).text() == "It is 42."
    last = kinds(simulator.prompts[-1]["input"])
    assert last == ["user", "reasoning", "function_call", "function_call_output"]
