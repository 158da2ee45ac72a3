"""The simulator's limits, banked resets and workspaces."""

from __future__ import annotations

import uuid

import pytest

from plain_requests import client, get
from simulator import Account, Answer, error_answer


def redeem(simulator, headers, key=None, **more):
    body = {"redeem_request_id": key or str(uuid.uuid4()), **more}
    url = f"{simulator.base_url}/wham/rate-limit-reset-credits/consume"
    return client.post(url, json=body, headers=headers)


def test_banked_resets_are_listed_and_counted(simulator, headers):
    simulator.bank_reset(expires_at=None)
    simulator.bank_reset(status="redeeming")
    simulator.bank_reset()
    answer = get(simulator, headers, "rate-limit-reset-credits").json()
    assert answer["available_count"] == 2
    assert [credit["expires_at"] is None for credit in answer["credits"]] == [True, False, False]
    fields = {"id", "reset_type", "status", "granted_at", "expires_at", "title", "description"}
    assert set(answer["credits"][2]) == fields
    usage = get(simulator, headers, "usage").json()
    assert usage["rate_limit_reset_credits"] == {"available_count": 2}


@pytest.mark.parametrize("repeated", ["already_redeemed", "reset"])
def test_a_reset_is_redeemed_once(simulator, headers, repeated):
    simulator.repeated_redeem_code = repeated
    simulator.bank_reset()
    simulator.bank_reset()
    key = str(uuid.uuid4())
    first = redeem(simulator, headers, key, credit_id="reset_2")
    assert first.json() == {"code": "reset", "windows_reset": 2}
    limits = get(simulator, headers, "usage").json()["rate_limit"]
    assert limits["primary_window"]["used_percent"] == 0
    assert limits["secondary_window"]["used_percent"] == 0
    simulator.used_percent["primary"] = 5.0
    assert redeem(simulator, headers, key).json()["code"] == repeated
    answer = get(simulator, headers, "rate-limit-reset-credits").json()
    assert [credit["status"] for credit in answer["credits"]] == ["available", "redeemed"]
    assert simulator.used_percent["primary"] == 5.0
    assert redeem(simulator, headers, credit_id="reset_2").json()["code"] == "no_credit"


def test_a_request_that_resets_nothing_uses_no_reset(simulator, headers):
    assert redeem(simulator, headers).json() == {"code": "no_credit", "windows_reset": 0}
    simulator.bank_reset()
    simulator.used_percent = {"primary": 0.0, "secondary": 0.0}
    assert redeem(simulator, headers).json() == {"code": "nothing_to_reset", "windows_reset": 0}
    assert get(simulator, headers, "usage").json()["rate_limit_reset_credits"] == {
        "available_count": 1
    }


def test_a_reset_can_be_redeemed_and_its_answer_lost(simulator, headers):
    def lost(request):
        simulator.serve_redeem(request)
        return Answer(502)

    simulator.bank_reset()
    simulator.script("redeem", lost)
    key = str(uuid.uuid4())
    assert redeem(simulator, headers, key).status_code == 502
    assert redeem(simulator, headers, key).json()["code"] == "already_redeemed"


@pytest.mark.parametrize(
    ("endpoint", "status", "code"),
    [("resets", 429, "connector_rate_limit"), ("redeem", 403, "rate_limit_reset_ineligible")],
)
def test_resets_can_be_refused(simulator, headers, endpoint, status, code):
    simulator.bank_reset()
    simulator.script(endpoint, error_answer(status, code))
    answer = (
        get(simulator, headers, "rate-limit-reset-credits")
        if endpoint == "resets"
        else redeem(simulator, headers)
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert simulator.resets[0]["status"] == "available"


def test_an_invalid_request_for_a_reset_is_refused(simulator, headers):
    simulator.bank_reset()
    for answer in (
        redeem(simulator, headers, "not-a-uuid"),
        redeem(simulator, headers, 7),
        redeem(simulator, headers, count=2),
    ):
        assert answer.status_code == 400
    stranger = {**headers, "Authorization": "Bearer x"}
    assert redeem(simulator, stranger).status_code == 401
    assert get(simulator, stranger, "rate-limit-reset-credits").status_code == 401
    assert simulator.resets[0]["status"] == "available"


def test_workspaces_may_have_names(simulator, headers):
    assert "name" not in get(simulator, headers, "accounts/check").json()["accounts"][0]
    simulator.account.name = "Ada alone"
    simulator.account.workspaces = (Account(account_id="acc-lab", name="The lab", plan="team"),)
    answer = get(simulator, headers, "accounts/check").json()
    assert [entry["name"] for entry in answer["accounts"]] == ["Ada alone", "The lab"]
    assert answer["account_ordering"] == [simulator.account.account_id, "acc-lab"]


@pytest.mark.parametrize("reached", [False, True])
def test_usage_is_given_in_integers(simulator, headers, reached):
    simulator.limit_reached = reached
    simulator.used_percent = {"primary": 30.7, "secondary": 12.0}
    usage = get(simulator, headers, "usage").json()
    limits = usage["rate_limit"]
    assert limits["allowed"] is not reached
    assert limits["limit_reached"] is reached
    windows = [limits["primary_window"], limits["secondary_window"]]
    assert [window["used_percent"] for window in windows] == [100 if reached else 30, 12]
    assert [window["limit_window_seconds"] for window in windows] == [18000, 604800]
    assert {type(value) for window in windows for value in window.values()} == {int}
    assert usage["additional_rate_limits"] is None


def test_luna_reserve_is_a_limit_of_its_own(simulator, headers):
    simulator.reserve_used = 12.0
    (reserve,) = get(simulator, headers, "usage").json()["additional_rate_limits"]
    assert reserve["limit_name"] == "gpt-reserve"
    assert reserve["metered_feature"] == "base_model_inference"
    assert reserve["normal_model_slug"] == "gpt-5.6-luna"
    assert reserve["rate_limit"]["allowed"] is True
    window = reserve["rate_limit"]["primary_window"]
    assert (window["used_percent"], window["limit_window_seconds"]) == (12, 604800)


def test_a_reset_ends_a_reached_limit(simulator, headers):
    simulator.bank_reset()
    simulator.limit_reached = True
    assert redeem(simulator, headers).json()["code"] == "reset"
    assert get(simulator, headers, "usage").json()["rate_limit"]["allowed"] is True


def test_a_workspace_names_its_origin(simulator, headers):
    accounts = get(simulator, headers, "accounts/check").json()["accounts"]
    assert accounts[0]["workspace_backend_origin"] == "https://chatgpt.com"
