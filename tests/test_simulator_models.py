"""The simulator's models: which ones an account has, and what each of them accepts."""

from __future__ import annotations

import pytest

from plain_requests import BODY, client, events_of, post
from simulator import Account

NEWEST = {"gpt-6.2-sol", "gpt-6.2-astra"}


def listed(simulator, headers, client_version="1.0.0"):
    """Return the models in the list for a client of this version, by slug."""
    url = f"{simulator.base_url}/codex/models"
    answer = client.get(url, params={"client_version": client_version}, headers=headers)
    return {model["slug"]: model for model in answer.json()["models"]}


def test_the_list_depends_on_the_clients_version(simulator, headers):
    url = f"{simulator.base_url}/codex/models"
    assert client.get(url, headers=headers).status_code == 400
    versions = ("0.150.0", "0.153.0", "0.155.0", "0.166.0", "0.200.0")
    counts = [len(listed(simulator, headers, version)) for version in versions]
    assert counts == sorted(counts)
    assert len(set(counts)) == 4
    answer = client.get(url, params={"client_version": "0.200.0"}, headers=headers)
    assert answer.headers["etag"] == simulator.models_etag


def test_the_list_says_what_each_model_supports(simulator, headers):
    models = listed(simulator, headers).values()
    lite = {model["slug"] for model in models if model["use_responses_lite"]}
    assert {"gpt-6.2-sol", "gpt-6-astra", "gpt-6.1-sol", "gpt-6-luna", "gpt-5.6-terra"} <= lite
    changing = {m["slug"] for m in models if m["supports_reasoning_effort_updates"]}
    assert changing == {*NEWEST, "gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-astra"}


def test_retired_models_are_refused_even_if_they_are_listed(simulator, headers):
    retired = {**simulator.models[0], "slug": "gpt-5.5"}
    for models in (simulator.models, [*simulator.models, retired]):
        simulator.models = models
        answer = post(simulator, headers, model="gpt-5.5")
        assert answer.status_code == 400
        assert "'gpt-5.5' model is not supported when using Codex with a ChatGPT" in answer.text
    assert "gpt-5.5" in listed(simulator, headers)
    assert post(simulator, headers, model="gpt-99").status_code == 404


def test_an_account_may_still_have_a_retired_model(simulator, headers):
    assert listed(simulator, headers)["gpt-5.2-codex"]["visibility"] == "hide"
    assert post(simulator, headers, model="gpt-5.2-codex").status_code == 200
    simulator.account.extra_models = ()
    assert "gpt-5.2-codex" not in listed(simulator, headers)
    assert post(simulator, headers, model="gpt-5.2-codex").status_code == 400


def test_the_newest_models_are_not_for_every_plan(simulator, headers):
    assert set(listed(simulator, headers)) >= NEWEST
    simulator.account.plan = "free"
    assert not NEWEST & set(listed(simulator, headers))
    assert post(simulator, headers, model="gpt-6.2-sol").status_code == 400


@pytest.mark.parametrize(
    ("slug", "effort", "status"),
    [
        ("gpt-6-luna", "none", 200),
        ("gpt-6.2-sol", "none", 400),
        ("gpt-6.2-sol", "max", 200),
        ("gpt-6-luna", "minimal", 400),
    ],
)
def test_each_model_accepts_only_its_own_efforts(simulator, headers, slug, effort, status):
    answer = post(simulator, headers, model=slug, reasoning={"effort": effort})
    assert answer.status_code == status


def update(effort):
    return {"type": "configuration_update", "reasoning": {"effort": effort}}


@pytest.mark.parametrize(
    ("slug", "effort", "status"),
    [
        ("gpt-6.1-sol", "high", 200),
        ("gpt-6.1-sol", "minimal", 400),
        ("gpt-6.2-sol", "none", 400),
        ("gpt-6-luna", "high", 400),
    ],
)
def test_only_some_models_accept_a_change_of_the_effort(simulator, headers, slug, effort, status):
    items = [*BODY["input"], update("low"), {"role": "assistant", "content": "hello"}]
    items += [*BODY["input"], update(effort)]
    answer = post(simulator, headers, model=slug, input=items, reasoning={"effort": "low"})
    assert answer.status_code == status
    if status == 200:
        assert events_of(answer)[-1]["response"]["reasoning"]["effort"] == effort


def test_only_some_models_need_instructions(simulator, headers):
    simulator.account.extra_models = ("gpt-5.5",)
    assert post(simulator, headers, instructions=None).status_code == 200
    assert post(simulator, headers, model="gpt-5.5", instructions=None).status_code == 400
    items = [{"role": "developer", "content": "You are Codex."}, *BODY["input"]]
    answer = post(simulator, headers, model="gpt-5.5", instructions=None, input=items)
    assert answer.status_code == 200
    simulator.demands_instructions = {"gpt-6-luna"}
    for instructions, status in ((None, 400), ("Be brief.", 200)):
        answer = post(simulator, headers, instructions=instructions, input=items)
        assert answer.status_code == status
    assert post(simulator, headers, model="gpt-6-sol", instructions=None).status_code == 200


def test_luna_reserve_is_a_hidden_model(simulator, headers):
    assert post(simulator, headers, model="gpt-reserve").status_code == 404
    simulator.reserve_used = 12.5
    assert listed(simulator, headers)["gpt-reserve"]["visibility"] == "hide"
    simulator.limit_reached = True
    refused = post(simulator, headers)
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "usage_limit_reached"
    assert post(simulator, headers, model="gpt-reserve").status_code == 200
    simulator.reserve_used = 100.0
    assert post(simulator, headers, model="gpt-reserve").status_code == 429


@pytest.mark.parametrize("sent", [None, "us", "eu"])
def test_a_workspace_may_demand_its_region(simulator, sent):
    simulator.account = Account(region="eu", compute_residency="us", data_residency="eu")
    headers = {
        "Authorization": f"Bearer {simulator.sign_in()['access_token']}",
        "ChatGPT-Account-ID": simulator.account.account_id,
        **({"x-openai-internal-codex-residency": sent} if sent else {}),
    }
    answer = post(simulator, headers)
    assert answer.status_code == (200 if sent == "eu" else 401)
    if sent != "eu":
        message = "Workspace is not authorized in this region."
        assert answer.json()["error"]["message"] == message
    # Other requests need no region, unless a test sets regional_paths.
    assert listed(simulator, headers)
    simulator.regional_paths = ("/backend-api/",)
    url = f"{simulator.base_url}/wham/usage"
    assert client.get(url, headers=headers).status_code == answer.status_code
