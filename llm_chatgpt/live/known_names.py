"""The events, headers and fields that docs/protocol.md lists ("Known names").

Names are separated by whitespace; `*` matches any characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

# Types of events (P273).
EVENTS = """
    error keepalive codex.rate_limits response.created response.queued response.in_progress
    response.metadata response.completed response.done response.incomplete response.failed
    response.output_item.added response.output_item.done
    response.content_part.added response.content_part.done
    response.output_text.delta response.output_text.done response.output_text.annotation.added
    response.refusal.delta response.refusal.done
    response.reasoning_summary_part.added response.reasoning_summary_part.done
    response.reasoning_summary_text.delta response.reasoning_summary_text.done
    response.reasoning_text.delta response.reasoning_text.done
    response.function_call_arguments.delta response.function_call_arguments.done
    response.custom_tool_call_input.delta response.custom_tool_call_input.done
    response.web_search_call.in_progress response.web_search_call.searching
    response.web_search_call.completed response.image_generation_call.in_progress
    response.image_generation_call.generating response.image_generation_call.partial_image
    response.image_generation_call.completed
"""
# Headers (P274): first those of the service, then those of HTTP and of the servers in between.
HEADERS = """
    x-oai-request-id x-request-id x-models-etag x-codex-turn-state openai-model
    x-codex-plan-type x-codex-active-limit x-codex-credits-* x-codex-promo-message
    x-codex-rate-limit-reached-type x-codex-primary-over-secondary-limit-percent
    x-*-limit-name x-*-used-percent x-*-window-minutes x-*-reset-at x-*-reset-after-seconds
    openai-processing-ms openai-version openai-organization openai-project x-ratelimit-*
    date server connection keep-alive transfer-encoding content-* etag cache-control expires
    pragma age vary via retry-after set-cookie alt-svc strict-transport-security
    x-content-type-options x-frame-options x-xss-protection referrer-policy permissions-policy
    cross-origin-* access-control-* nel report-to reporting-endpoints server-timing cf-*
    x-envoy-* priority
"""
# Fields of the final event, of its `response`, and of the `usage` there with its details (P275).
EVENT_FIELDS = "type sequence_number response safety_buffering"
RESPONSE_FIELDS = """
    id object created_at completed_at status model output usage error incomplete_details end_turn
    input_transformations instructions background conversation frequency_penalty
    max_output_tokens max_tool_calls metadata moderation parallel_tool_calls presence_penalty
    previous_response_id prompt prompt_cache_key prompt_cache_retention reasoning
    safety_identifier service_tier store temperature text tool_choice tool_usage tools
    top_logprobs top_p truncation user
    client_metadata context_management include prompt_cache_options stream stream_options
"""
USAGE_FIELDS = """
    input_tokens output_tokens total_tokens input_tokens_details output_tokens_details
    cached_tokens cache_write_tokens reasoning_tokens attribution
"""


def unlisted(names: Iterable[str], listed: str) -> list[str]:
    """Return the names that `listed` does not contain, sorted."""
    patterns = listed.split()
    return sorted({n for n in names if not any(fnmatchcase(n, pattern) for pattern in patterns)})
