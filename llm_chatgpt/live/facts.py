"""What docs/protocol.md knows of an answer, with the ids that its facts have there."""

from __future__ import annotations

import re

NO_CONTENT_TYPE = "P154"
NO_OUTPUT = "P163"
ERROR_FORMS = "P174"
EVENTS = "P273"
HEADERS = "P274"
FIELDS = "P275"
PIECES = "P276"

KNOWN_EVENTS = {
    *("error", "keepalive", "codex.rate_limits"),
    *(
        f"response.{name}"
        for name in (
            *("created", "queued", "in_progress", "metadata"),
            *("completed", "done", "incomplete", "failed"),
            *("output_item.added", "output_item.done"),
            *("content_part.added", "content_part.done"),
            *("output_text.delta", "output_text.done", "output_text.annotation.added"),
            *("refusal.delta", "refusal.done"),
            *("reasoning_summary_part.added", "reasoning_summary_part.done"),
            *("reasoning_summary_text.delta", "reasoning_summary_text.done"),
            *("reasoning_text.delta", "reasoning_text.done"),
            *("function_call_arguments.delta", "function_call_arguments.done"),
            *("custom_tool_call_input.delta", "custom_tool_call_input.done"),
            *("web_search_call.in_progress", "web_search_call.searching"),
            *("web_search_call.completed", "image_generation_call.in_progress"),
            *("image_generation_call.generating", "image_generation_call.partial_image"),
            "image_generation_call.completed",
        )
    ),
}
# Of the service itself. `*` stands for any words.
KNOWN_HEADERS = {
    *("x-oai-request-id", "x-request-id", "x-models-etag", "x-codex-turn-state", "openai-model"),
    *("x-codex-plan-type", "x-codex-active-limit", "x-codex-credits-*", "x-codex-promo-message"),
    *("x-codex-rate-limit-reached-type", "x-codex-primary-over-secondary-limit-percent"),
    *("x-*-limit-name", "x-*-used-percent", "x-*-window-minutes", "x-*-reset-at"),
    *("x-*-reset-after-seconds", "openai-processing-ms", "openai-version", "openai-organization"),
    *("openai-project", "x-ratelimit-*"),
}
# Of HTTP and of the servers before the service.
KNOWN_TRANSPORT_HEADERS = {
    *("date", "server", "connection", "keep-alive", "transfer-encoding", "content-*", "etag"),
    *("cache-control", "expires", "pragma", "age", "vary", "via", "retry-after", "set-cookie"),
    *("alt-svc", "strict-transport-security", "x-content-type-options", "x-frame-options"),
    *("x-xss-protection", "referrer-policy", "permissions-policy", "cross-origin-*"),
    *("access-control-*", "nel", "report-to", "reporting-endpoints", "server-timing", "cf-*"),
    *("x-envoy-*", "priority"),
}
# Of the final event, of its `response`, and of the `usage` there.
KNOWN_EVENT_FIELDS = {"type", "sequence_number", "response", "safety_buffering"}
KNOWN_FIELDS = {
    *("id", "object", "created_at", "completed_at", "status", "model", "output", "usage"),
    *("error", "incomplete_details", "end_turn", "input_transformations", "instructions"),
    *("background", "conversation", "frequency_penalty", "max_output_tokens", "max_tool_calls"),
    *("metadata", "moderation", "parallel_tool_calls", "presence_penalty", "previous_response_id"),
    *("prompt", "prompt_cache_key", "prompt_cache_retention", "reasoning", "safety_identifier"),
    *("service_tier", "store", "temperature", "text", "tool_choice", "tool_usage", "tools"),
    *("top_logprobs", "top_p", "truncation", "user"),
    # It repeats parameters of the request.
    *("client_metadata", "context_management", "include", "prompt_cache_options", "stream"),
    "stream_options",
}
KNOWN_USAGE = {
    *("input_tokens", "output_tokens", "total_tokens", "input_tokens_details"),
    *("output_tokens_details", "cached_tokens", "cache_write_tokens", "reasoning_tokens"),
    "attribution",
}


def is_known_header(name: str) -> bool:
    patterns = (re.escape(known).replace(r"\*", ".+") for known in _ALL_HEADERS)
    return any(re.fullmatch(pattern, name.lower()) for pattern in patterns)


_ALL_HEADERS = KNOWN_HEADERS | KNOWN_TRANSPORT_HEADERS
