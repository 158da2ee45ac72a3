"""The endpoints under /wham: an account's limits, its banked resets, and its workspaces."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from .issuer import Account, Issuer
from .replies import Answer, Refusal, Request, error_answer, invalid, refuse

MONTH = 30 * 24 * 3600


class Wham(Issuer):
    """Tells the users whom the issuer has signed in what they have."""

    def __init__(self) -> None:
        super().__init__()
        self.require_account_header = True
        self.used_percent = {"primary": 30.0, "secondary": 12.0}
        # The banked resets, as the service lists them.
        self.resets: list[dict[str, Any]] = []
        # The ids of the requests that redeemed one, and what a repeated one is told.
        self.redeemed: set[str] = set()
        self.repeated_redeem_code = "already_redeemed"

    def signed_in(self, request: Request) -> Account:
        """Whose request this is; raises Refusal."""
        if request.bearer in self.personal_tokens:
            return self.personal_tokens[request.bearer]
        entry = self.access_tokens.get(request.bearer)
        if entry is None:
            raise refuse(401, "Could not parse your authentication token. Please try again.")
        if entry["expires_at"] <= self.clock():
            message = "Provided authentication token is expired. Please try signing in again."
            raise Refusal(error_answer(401, "token_expired", message))
        account: Account = entry["account"]
        named = request.headers.get("chatgpt-account-id")
        if named != account.account_id and (named or self.require_account_header):
            raise refuse(401, "Unauthorized")
        if account.fedramp and request.headers.get("x-openai-fedramp") != "true":
            raise refuse(401, "Unauthorized")
        return account

    # Limits

    def serve_usage(self, request: Request) -> Answer:
        account = self.signed_in(request)

        def window(name: str, seconds: int) -> dict[str, Any]:
            return {
                "used_percent": self.used_percent[name],
                "limit_window_seconds": seconds,
                "reset_after_seconds": seconds // 2,
                "reset_at": int(self.clock()) + seconds // 2,
            }

        return Answer(
            200,
            {
                "user_id": account.user_id,
                "account_id": account.account_id,
                "email": account.email,
                "plan_type": account.plan,
                "rate_limit": {
                    "allowed": True,
                    "limit_reached": False,
                    "primary_window": window("primary", 18000),
                    "secondary_window": window("secondary", 604800),
                },
                "code_review_rate_limit": None,
                "additional_rate_limits": None,
                "credits": {"has_credits": False, "unlimited": False, "balance": "0"},
                "spend_control": {"reached": False, "individual_limit": None},
                "rate_limit_reached_type": None,
                "rate_limit_reset_credits": {"available_count": len(self._available_resets())},
            },
        )

    # Banked resets

    def bank_reset(self, **fields: Any) -> dict[str, Any]:
        """One more reset, which expires in a month; `fields` replace its own."""
        now = self.clock()
        number = len(self.resets) + 1
        reset = {
            "id": f"reset_{number}",
            "reset_type": "codex_rate_limits",
            "status": "available",
            "granted_at": _iso(now),
            "expires_at": _iso(now + MONTH),
            "title": "Rate limit reset",
            "description": "Clears the limits of this account once.",
            **fields,
        }
        self.resets.append(reset)
        return reset

    def _available_resets(self) -> list[dict[str, Any]]:
        return [reset for reset in self.resets if reset["status"] == "available"]

    def serve_resets(self, request: Request) -> Answer:
        self.signed_in(request)
        body = {
            "credits": self.resets,
            "available_count": len(self._available_resets()),
            "total_earned_count": len(self.resets),
        }
        return Answer(200, body)

    def serve_redeem(self, request: Request) -> Answer:
        self.signed_in(request)
        body = request.body
        if not request.is_json or set(body) - {"redeem_request_id", "credit_id"}:
            raise refuse(400, "Invalid request")
        key = body.get("redeem_request_id")
        try:
            uuid.UUID(key)
        except (AttributeError, TypeError, ValueError):
            raise invalid("invalid_value", "Invalid redeem_request_id") from None
        with self.lock:
            code = self._redeem(key, body.get("credit_id"))
        windows = len(self.used_percent) if code == "reset" else 0
        return Answer(200, {"code": code, "windows_reset": windows})

    def _redeem(self, key: str, wanted: str | None) -> str:
        if key in self.redeemed:
            return self.repeated_redeem_code
        resets = [r for r in self._available_resets() if wanted in (None, r["id"])]
        if not resets:
            return "no_credit"
        if not any(self.used_percent.values()):
            return "nothing_to_reset"
        resets[0]["status"] = "redeemed"
        self.redeemed.add(key)
        self.used_percent = dict.fromkeys(self.used_percent, 0.0)
        return "reset"

    # Workspaces

    def serve_accounts(self, request: Request) -> Answer:
        account = self.signed_in(request)
        every = (account, *account.workspaces)
        return Answer(
            200,
            {
                "accounts": [_account_entry(workspace) for workspace in every],
                "account_ordering": [workspace.account_id for workspace in every],
            },
        )


def _account_entry(account: Account) -> dict[str, Any]:
    entry = {
        "id": account.account_id,
        "workspace_backend_origin": account.workspace_origin,
        "account_routing_override": "NO_CONSTRAINT",
        "plan_type": account.plan,
        "structure": "personal",
        "is_deactivated": False,
        "is_fedramp_compliant_workspace": account.fedramp,
        "can_access_with_session": True,
    }
    # No recording proves that the service names them.
    return entry if account.name is None else {**entry, "name": account.name}


def _iso(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).isoformat()
