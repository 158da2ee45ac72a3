"""The endpoints under /wham: an account's limits, its banked resets, and its workspaces."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from .issuer import Account, Issuer
from .replies import Answer, Refusal, Request, error_answer, invalid, refuse, usage_limit

MONTH = 30 * 24 * 3600
WEEK = 7 * 24 * 3600
# The model that uses Luna Reserve.
RESERVE = "gpt-reserve"
RESIDENCY = "x-openai-internal-codex-residency"


class Wham(Issuer):
    """Reports limits, banked resets and workspaces to signed-in users."""

    def __init__(self) -> None:
        super().__init__()
        self.require_account_header = True
        self.used_percent = {"primary": 30.0, "secondary": 12.0}
        # Whether the ordinary limits are used up.
        self.limit_reached = False
        # The used percentage of Luna Reserve; None if it is not offered.
        self.reserve_used: float | None = None
        # The paths that demand a workspace's region. There may be more (P78).
        self.regional_paths = ("/codex/responses", "/codex/images/")
        # The banked resets, as the service lists them.
        self.resets: list[dict[str, Any]] = []
        # The ids of requests that used a reset, and the code that answers a repeated request.
        self.redeemed: set[str] = set()
        self.repeated_redeem_code = "already_redeemed"

    def signed_in(self, request: Request) -> Account:
        """Return the account of a request; raises Refusal."""
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
        regional = account.region and any(path in request.path for path in self.regional_paths)
        if regional and request.headers.get(RESIDENCY) != account.region:
            message = "Workspace is not authorized in this region."
            raise Refusal(error_answer(401, None, message))
        return account

    # Limits

    def serve_usage(self, request: Request) -> Answer:
        account = self.signed_in(request)
        used = {**self.used_percent, **({"primary": 100.0} if self.limit_reached else {})}
        return Answer(
            200,
            {
                "user_id": account.user_id,
                "account_id": account.account_id,
                "email": account.email,
                "plan_type": account.plan,
                "rate_limit": {
                    "allowed": not self.limit_reached,
                    "limit_reached": self.limit_reached,
                    "primary_window": self._window(used["primary"], 18000),
                    "secondary_window": self._window(used["secondary"], WEEK),
                },
                "code_review_rate_limit": None,
                "additional_rate_limits": self._reserve(),
                "rate_limit_upsell": None,
                "credits": {"has_credits": False, "unlimited": False, "balance": "0"},
                "spend_control": {"reached": False, "individual_limit": None},
                "rate_limit_reached_type": None,
                "rate_limit_reset_credits": {"available_count": len(self._available_resets())},
            },
        )

    def _window(self, used: float, seconds: int) -> dict[str, int]:
        # All integers: Codex CLI reads no others (docs/protocol.md).
        return {
            "used_percent": int(used),
            "limit_window_seconds": seconds,
            "reset_after_seconds": seconds // 2,
            "reset_at": int(self.clock()) + seconds // 2,
        }

    def _reserve(self) -> list[dict[str, Any]] | None:
        if self.reserve_used is None:
            return None
        left = self.reserve_used < 100
        return [
            {
                "limit_name": RESERVE,
                "metered_feature": "base_model_inference",
                "normal_model_slug": "gpt-5.6-luna",
                "rate_limit": {
                    "allowed": left,
                    "limit_reached": not left,
                    "primary_window": self._window(self.reserve_used, WEEK),
                    "secondary_window": None,
                },
            }
        ]

    def check_limit(self, model: str, account: Account) -> None:
        """Raise Refusal if the limit for this model is used up."""
        reserve = self.reserve_used or 0
        if reserve >= 100 if model == RESERVE else self.limit_reached:
            raise Refusal(usage_limit(plan_type=account.plan))

    # Banked resets

    def bank_reset(self, **fields: Any) -> dict[str, Any]:
        """Add a reset that expires in a month; `fields` replace its own."""
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
        if not any(self.used_percent.values()) and not self.limit_reached:
            return "nothing_to_reset"
        resets[0]["status"] = "redeemed"
        self.redeemed.add(key)
        self.used_percent = dict.fromkeys(self.used_percent, 0.0)
        self.limit_reached = False
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
    # No recording shows that workspaces have names.
    return entry if account.name is None else {**entry, "name": account.name}


def _iso(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).isoformat()
