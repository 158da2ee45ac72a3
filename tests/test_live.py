"""`llm chatgpt doctor --live`: the documented service, and each way it can differ."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import pytest

from cassettes import opened_cassette
from conftest import assert_no_secrets, sign_in, sign_in_officially
from llm_chatgpt.live import checks, known_names
from llm_chatgpt.live.checks import CHECKS
from llm_chatgpt.live.scrub import Scrubber, secrets_in
from simulator import Answer, Stream, error_answer, sse
from simulator.replies import Refusal

CHECK_NAMES = [check.name for check in CHECKS]
# The checks that send a prompt without --all.
OTHER_CHECKS = ("model list", "usage", "picture", "another model", "refresh")
DEFAULT_PROMPTS = [name for name in CHECK_NAMES if name not in OTHER_CHECKS]


@pytest.fixture(params=["codex", "official"])
def route(request, simulator):
    """A login of each route."""
    simulator.uses_tools = True
    (sign_in if request.param == "codex" else sign_in_officially)(simulator)
    return request.param


@pytest.fixture
def codex(simulator):
    simulator.uses_tools = True
    return sign_in(simulator)


@pytest.fixture
def check(run_llm):
    """Run the live check and return its report."""

    def run(*arguments):
        result = run_llm("chatgpt", "doctor", "--live", "--yes", "--json", *arguments)
        report = json.loads(result.stdout)
        states = {line["name"]: line["state"] for line in report["lines"]}
        assert len(states) == len(report["lines"])
        assert report["ok"] == (set(states.values()) == {"ok"}) == (result.exit_code == 0)
        return report

    return run


def not_ok(report):
    """The lines that are not ok, with their states."""
    lines = report["lines"]
    return {line["name"]: line["state"] for line in lines if line["state"] != "ok"}


def differences(report):
    return [
        (line["name"], each["fact"], each["text"])
        for line in report["lines"]
        for each in line["differences"]
    ]


def always(simulator, change):
    """Answer prompts with what `change(body, normal)` returns, if not None.

    `normal` is None before the simulator handles the prompt, and afterwards its normal answer.
    """

    def endpoint(name, serve):
        def answer(request):
            refused = change(request.body, None)
            if refused is not None:
                return refused
            try:
                normal = serve(request)
            except Refusal as refusal:
                return refusal.answer
            return change(request.body, normal) or normal

        simulator.always[name] = answer

    endpoint("responses", simulator.serve_responses)
    endpoint("official_responses", simulator.serve_official_responses)


def refuse_if(condition, answer):
    """A change that refuses the prompts whose body meets a condition."""
    return lambda body, normal: answer if normal is None and condition(body) else None


def part_types(body):
    return [part.get("type") for item in body["input"] for part in item.get("content") or []]


def test_the_documented_service_shows_no_differences(simulator, route, check):
    report = check("--all")
    assert not_ok(report) == {}
    assert differences(report) == []
    names = [line["name"] for line in report["lines"]]
    missing = ["output limit", "usage", "picture", "refresh"] if route == "official" else []
    assert names == [name for name in CHECK_NAMES if name not in missing]
    assert report["route"] == ("Codex" if route == "codex" else "official")
    assert report["model"] == ("chatgpt-gpt-6-luna" if route == "codex" else "chatgpt-gpt-5.6-luna")
    assert all(line["facts"] for line in report["lines"])


def test_the_live_check_sends_as_many_requests_as_announced(simulator, route, run_llm):
    refused = run_llm("chatgpt", "doctor", "--live")
    assert refused.exit_code == 1
    announced = re.fullmatch(
        r"Error: The live check sends up to (\d+) small requests, which count against your plan's "
        r"limits\. Confirm that with --yes\.\n",
        refused.output,
    )
    assert not simulator.requests
    assert run_llm("chatgpt", "doctor", "--live", "--yes").exit_code == 0
    assert len(simulator.requests) == int(announced[1])
    assert int(announced[1]) < 20


def test_the_report_contains_no_personal_data(simulator, route, run_llm, tmp_path):
    name, plan = simulator.account.name, simulator.account.plan
    result = run_llm("chatgpt", "doctor", "--live", "--yes", "--all")
    assert result.exit_code == 0
    assert_no_secrets(simulator, result.output)
    for secret in (simulator.account.email, simulator.account.account_id, name, str(tmp_path)):
        assert not secret or secret not in result.output
    assert not secrets_in(result.stdout)
    begin, lines, end = result.stdout.split("\n\n")
    assert f"plan: {plan if route == 'codex' else 'unknown'}" in begin
    assert "llm-chatgpt-oauth/" in begin
    assert "httpx" in begin
    assert lines.splitlines()[0].startswith("ok       model list: 10 listed")
    assert end.startswith("1")
    assert "confirmed: P" in end
    assert "contradicted" not in end


def no_cache(simulator):
    simulator.cache.count = lambda body, session: (2000, 0)


def change_last_event(simulator, **changes):
    frames = simulator.frames
    simulator.frames = lambda *args, **more: frames(*args, **{**more, **changes})


def unknown_event(simulator):
    def change(body, normal):
        if isinstance(normal, Stream):
            normal.pieces = [sse({"type": "response.mood", "mood": "good"}), *normal.pieces]
        return normal

    always(simulator, change)


BOTH_ROUTES = {
    "no cached tokens": (no_cache, {"second turn": "differs"}),
    "unknown event": (unknown_event, {"one-word answer": "differs"}),
    "unknown field": (lambda s: change_last_event(s, mood="good"), {"one-word answer": "differs"}),
    "one call at a time": (
        lambda s: setattr(s, "uses_tools", False),
        {"tool turn": "differs"},
    ),
    "instructions demanded": (
        lambda s: always(
            s,
            refuse_if(
                lambda b: not b.get("instructions"),
                Answer(400, {"detail": "Instructions are required"}),
            ),
        ),
        {"system prompt": "differs"},
    ),
    "files refused": (
        lambda s: always(
            s,
            refuse_if(
                lambda b: "input_file" in part_types(b),
                error_answer(400, "invalid_value", "No files."),
            ),
        ),
        {"PDF": "failed"},
    ),
    "image refused": (
        lambda s: always(
            s,
            refuse_if(
                lambda b: "input_image" in part_types(b), error_answer(400, "invalid_image_request")
            ),
        ),
        {"image": "failed"},
    ),
    "other error body": (
        lambda s: always(
            s,
            refuse_if(
                lambda b: "input_image" in part_types(b), Answer(400, {"problems": ["No images."]})
            ),
        ),
        {"image": "failed"},
    ),
    "web search refused": (
        lambda s: always(
            s,
            refuse_if(
                lambda b: any(t["type"] == "web_search" for t in b.get("tools") or []),
                error_answer(400, "invalid_value", "No search.", param="tools"),
            ),
        ),
        {"web search": "failed"},
    ),
    "strict schema refused": (
        lambda s: always(
            s,
            refuse_if(
                lambda b: (b.get("text") or {}).get("format", {}).get("strict"),
                error_answer(400, "invalid_json_schema", param="text.format.schema"),
            ),
        ),
        {"strict schema": "differs"},
    ),
    "reasoning refused": (
        lambda s: always(
            s,
            refuse_if(
                lambda b: any(item.get("type") == "reasoning" for item in b["input"]),
                error_answer(400, "invalid_encrypted_content"),
            ),
        ),
        {"reasoning sent back": "differs"},
    ),
    "reasoning left out": (
        lambda s: change_last_event(
            s,
            input_transformations=[
                {"type": "reasoning", "action": "removed", "reason": "prefix_mismatch"}
            ],
        ),
        {"reasoning sent back": "differs"},
    ),
    "summary refused": (
        lambda s: always(
            s,
            refuse_if(
                lambda b: "summary" in b.get("reasoning", {}),
                error_answer(400, None, param="reasoning.summary"),
            ),
        ),
        {"reasoning sent back": "differs"},
    ),
    "a temporary failure": (
        lambda s: s.script("responses", Answer(500)) or s.script("official_responses", Answer(500)),
        {},
    ),
}


@pytest.mark.parametrize("fault", BOTH_ROUTES)
def test_each_difference_is_reported_on_its_line(simulator, route, check, fault):
    change, expected = BOTH_ROUTES[fault]
    change(simulator)
    report = check()
    assert not_ok(report) == expected
    reported = {name for name, *_ in differences(report)}
    assert reported >= {name for name, state in expected.items() if state == "differs"}


CODEX_ONLY = {
    "output limit refused": (
        lambda s: s.refused_parameters.add("max_output_tokens"),
        {"output limit": "differs"},
        "P95",
    ),
    "unknown header": (
        lambda s: s.response_headers.update({"x-mood": "good"}),
        {"one-word answer": "differs"},
        "P274",
    ),
    "a stream with a Content-Type": (
        lambda s: s.response_headers.update({"Content-Type": "text/event-stream"}),
        {"streaming": "differs"},
        "P154",
    ),
    "other limits": (
        lambda s: s.always.update(usage=lambda request: Answer(200, {"rate_limit": {}})),
        {"usage": "differs"},
        "P203",
    ),
    "no usage": (
        lambda s: s.always.update(usage=lambda request: Answer(404, {"detail": "Not Found"})),
        {"usage": "failed"},
        None,
    ),
    "no list": (
        lambda s: s.always.update(models=lambda request: Answer(403, {"detail": "No."})),
        {"model list": "failed"},
        None,
    ),
    "region refused": (
        lambda s: setattr(s.account, "region", "eu"),
        dict.fromkeys(DEFAULT_PROMPTS, "failed"),
        None,
    ),
    "a reached limit": (
        lambda s: setattr(s, "limit_reached", True),
        dict.fromkeys(DEFAULT_PROMPTS, "failed"),
        None,
    ),
}


@pytest.mark.parametrize("fault", CODEX_ONLY)
def test_each_difference_of_the_codex_backend_names_its_fact(simulator, codex, check, fault):
    change, expected, fact = CODEX_ONLY[fault]
    change(simulator)
    report = check()
    assert not_ok(report) == expected
    assert {each[1] for each in differences(report)} == ({fact} if fact else set())


@pytest.mark.parametrize(
    ("capability", "lines"),
    [
        ("web_search", ["web search"]),
        ("text.format", ["strict schema", "loose schema"]),
        ("input_image", ["image"]),
        ("input_file", ["PDF"]),
    ],
)
def test_a_capability_that_the_plan_lacks_fails_only_its_lines(simulator, check, capability, lines):
    simulator.uses_tools = True
    sign_in_officially(simulator)
    simulator.official.refused_capabilities.add(capability)
    assert not_ok(check()) == dict.fromkeys(lines, "failed")


def test_the_report_quotes_the_service(simulator, codex, check):
    image = error_answer(400, "invalid_image_request", "It is a bad image.", param="input[0]")
    always(simulator, refuse_if(lambda body: "input_image" in part_types(body), image))
    line = next(line for line in check()["lines"] if line["name"] == "image")
    assert "It is a bad image" in line["text"]
    assert "(400, invalid_image_request, input[0])" in line["text"]


def test_secrets_in_error_messages_are_removed(simulator, codex, run_llm):
    account, token = simulator.account, next(iter(simulator.access_tokens))
    words = f"bad: {account.email} {account.account_id} org-{'a1' * 12} {token}"
    image = error_answer(400, "invalid_image_request", words)
    always(simulator, refuse_if(lambda body: "input_image" in part_types(body), image))
    result = run_llm("chatgpt", "doctor", "--live", "--yes")
    assert result.exit_code == 1
    assert_no_secrets(simulator, result.output)
    assert account.email not in result.output
    assert account.account_id not in result.output
    assert "bad: [removed] [removed] [removed] [removed]" in result.stdout


def test_unknown_bodies_of_errors_are_listed(simulator, codex, check):
    answer = Answer(400, {"problems": ["No images."]})
    always(simulator, refuse_if(lambda body: "input_image" in part_types(body), answer))
    [(line, fact, text)] = differences(check())
    assert (line, fact) == ("image", "P174")
    assert "No images." in text


def test_without_a_login_the_live_check_says_so(simulator, run_llm):
    result = run_llm("chatgpt", "doctor", "--live", "--yes")
    assert result.exit_code == 1
    assert result.output == "Error: Not signed in to ChatGPT. Run 'llm chatgpt login' first.\n"


def test_yes_all_and_record_need_live(run_llm):
    for option in (["--yes"], ["--all"], ["--record", "x"]):
        result = run_llm("chatgpt", "doctor", *option)
        assert result.exit_code == 2
        assert "--all, --yes and --record need --live." in result.output


def test_account_chooses_the_login(simulator, codex, check):
    simulator.account = dataclasses.replace(simulator.account, account_id="other", plan="free")
    sign_in(simulator, "work")
    assert check("--account", "work")["plan"] == "free"
    assert {r.headers["chatgpt-account-id"] for r in simulator.requests} == {"other"}


def test_an_account_with_one_model_skips_the_other_model(simulator, codex, check):
    simulator.models = [model for model in simulator.models if model["slug"] == "gpt-6-luna"]
    report = check("--all")
    assert not_ok(report) == {}
    line = report["lines"][-1]
    assert (line["text"], line["facts"]) == ("the account has no other model", [])


def test_ctrl_c_shows_the_finished_checks(simulator, codex, run_llm, monkeypatch):
    def interrupt(live):
        raise KeyboardInterrupt

    third = checks.CHECKS[2]._replace(run=interrupt)
    monkeypatch.setattr(checks, "CHECKS", (*checks.CHECKS[:2], third, *checks.CHECKS[3:]))
    result = run_llm("chatgpt", "doctor", "--live", "--yes")
    assert result.exit_code == 1
    assert "ok       one-word answer" in result.stdout
    assert "system prompt" not in result.stdout
    assert "2 ok, 0 differs, 0 failed, 14 not run" in result.stdout
    assert "Stopped after 2 of 16 checks." in result.stderr
    result = run_llm("chatgpt", "doctor", "--live", "--yes", "--json")
    report = json.loads(result.stdout)
    assert (report["complete"], report["ok"], len(report["lines"])) == (False, False, 2)


def test_the_pdf_has_its_objects_where_its_table_says():
    start = int(re.search(rb"startxref\n(\d+)\n", checks._PDF)[1])
    table, _ = checks._PDF[start:].split(b"trailer")
    assert table.startswith(b"xref\n0 5\n")
    entries = re.findall(rb"(\d{10}) 00000 n\r\n", table)
    for number, place in enumerate(entries, 1):
        assert checks._PDF[int(place) :].startswith(b"%d 0 obj" % number)
    assert len(entries) == checks._PDF.count(b" endobj") == 4
    length = int(re.search(rb"/Length (\d+)", checks._PDF)[1])
    assert len(checks._PDF.split(b"stream\n")[1].rsplit(b"\nend", 1)[0]) == length


def test_the_live_check_logs_nothing_in_llm(simulator, codex, check, tmp_path):
    check()
    assert not (tmp_path / "llm" / "logs.db").exists()


# Recordings ---------------------------------------------------------------------------


def test_a_recording_has_no_secret_and_can_be_replayed(
    simulator, route, check, run_llm, tmp_path, monkeypatch
):
    folder = tmp_path / "recorded"
    first = check("--record", str(folder))
    [path] = folder.glob("*.yaml")
    assert path.name == f"live_{route}.yaml"
    text = path.read_text()
    assert secrets_in(text) == []
    assert_no_secrets(simulator, text)
    for secret in (simulator.account.account_id, simulator.account.user_id, "authorization"):
        assert secret not in text
    seen = len(simulator.requests)
    with opened_cassette(path) as played:
        again = check()
    assert len(simulator.requests) == seen
    assert (not_ok(again), not_ok(first)) == ({}, {})
    assert len(again["lines"]) == len(first["lines"])
    assert played.all_played


def test_a_recording_of_a_refresh_has_no_secret(simulator, route, run_llm, tmp_path):
    rejected = Answer(401, {"detail": {"error_code": "invalid_token"}})
    if route == "official":
        # Otherwise the refresh after the 401 would come too early.
        simulator.official.earliest_refresh_form = "absent"
        sign_in_officially(simulator)
    simulator.script("responses" if route == "codex" else "official_responses", rejected)
    result = run_llm("chatgpt", "doctor", "--live", "--yes", "--record", str(tmp_path))
    assert result.exit_code == 0, result.output
    text = (tmp_path / f"live_{route}.yaml").read_text()
    assert "oauth/token" in text
    assert "scrubbed-refresh_token-1" in text
    assert_no_secrets(simulator, text)
    assert secrets_in(text) == []
    assert simulator.account.email not in text


def test_a_secret_in_an_unknown_field_is_not_recorded(simulator, codex, check, tmp_path):
    change_last_event(simulator, mood="at-1234567890abcdef")
    assert not_ok(check("--record", str(tmp_path))) == {"one-word answer": "differs"}
    text = (tmp_path / "live_codex.yaml").read_text()
    assert "mood" in text
    assert "at-1234567890abcdef" not in text


@pytest.mark.parametrize(
    "secret",
    [
        "rt_0123456789abcdef",
        "at-0123456789abcdef",
        "Bearer abc.def.ghi",
        "eyJhbGciOiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
        "grace@navy.mil",
        "0a1b2c3d-0a1b-4c2d-8e3f-0a1b2c3d4e5f",
        "org-AbC123dEf456",
        "user-AbC123dEf456",
        "resp_0a1b2c3d4e5f",
        "Cookie: session=abcdef",
        '"set-cookie": ["__cf_bm=abcdef"]',
        "gAAAAABm1234567",
        "oaiapp_1234567",
    ],
)
def test_each_kind_of_secret_is_found(secret):
    assert secrets_in(f"one {secret} two")
    assert not secrets_in("x-codex-primary-used-percent reasoning.encrypted_content tool_choice")


@pytest.mark.parametrize(
    "text", ["Cookie: a=abcdef; b=abcdef", '"set-cookie": ["__cf_bm=abcdef; Path=/"]']
)
def test_the_values_of_cookies_are_scrubbed(text):
    assert "abcdef" not in Scrubber().text(text)


# Facts --------------------------------------------------------------------------------

PROTOCOL = (pathlib.Path(__file__).parent.parent / "docs/protocol.md").read_text()
NUMBERED, SETTLED = PROTOCOL.split("## What settles these facts\n")
NUMBERED = NUMBERED[NUMBERED.index("## Addresses") :]


def numbers(text):
    """The numbers in a list of facts and of ranges of facts."""
    spans = re.findall(r"P(\d+)(?:\u2013P(\d+))?", text)
    return [n for begin, end in spans for n in range(int(begin), int(end or begin) + 1)]


def test_every_fact_has_a_number_of_its_own():
    ids = re.findall(r"\*\*P(\d+)\*\*", NUMBERED)
    assert sorted(map(int, ids)) == list(range(1, len(ids) + 1))
    for line in NUMBERED.splitlines():
        if line.startswith("| ") and re.search(r"\((seen|client|other|reported|kit)\)", line):
            assert line.startswith("| **P"), line


def test_the_protocols_table_has_the_facts_of_the_live_check():
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", SETTLED, re.MULTILINE))
    assert rows.pop("line") == "facts"
    unsettled = numbers(rows.pop("not settled by the live check"))
    any_line = numbers(rows.pop("any line that says `differs` or `failed`"))
    assert {name: set(numbers(ids)) for name, ids in rows.items()} == {
        check.name: set(numbers(" ".join(check.facts))) for check in CHECKS
    }
    settled = {n for ids in rows.values() for n in numbers(ids)} | set(any_line)
    assert not settled & set(unsettled)
    assert sorted(settled | set(unsettled)) == sorted(numbers(" ".join(ids_in(NUMBERED))))
    # Differences name only these facts.
    source = "".join(path.read_text() for path in pathlib.Path(checks.__file__).parent.glob("*.py"))
    assert set(numbers(" ".join(re.findall(r'"(P\d+)"', source)))) <= settled


def ids_in(text):
    return re.findall(r"\*\*(P\d+)\*\*", text)


def test_the_known_names_are_those_of_the_protocol():
    section = NUMBERED.split("### Known names\n")[1].split("\n## ")[0]
    events, headers, fields = (re.findall(r"`([^`]+)`", item) for item in section.split("\n- ")[1:])
    events = {n if n in ("error", "keepalive") or "codex" in n else f"response.{n}" for n in events}
    names = (known_names.EVENT_FIELDS, known_names.RESPONSE_FIELDS, known_names.USAGE_FIELDS)
    assert events - {"response.response."} == set(known_names.EVENTS.split())
    assert set(headers) - {"*"} == set(known_names.HEADERS.split())
    assert set(fields) == set(" ".join(names).split())


def test_the_documented_lines_are_those_of_the_live_check():
    reference = (pathlib.Path(__file__).parent.parent / "docs/reference.md").read_text()
    table = reference.split("| line | what it checks |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.split(" | ")[0].removeprefix("| ") for row in table.splitlines()]
    assert [name for row in rows for name in row.split(", ")] == CHECK_NAMES
