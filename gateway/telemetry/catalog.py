"""Every metric that Headgate exports: the workers count by it, the controller exposes it, the documentation is made from it."""

from __future__ import annotations

from typing import Literal

import msgspec

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OVERHEAD_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)


class Metric(msgspec.Struct, frozen=True):
    """One metric. Label values come from the policy file or from a fixed list, never from a request."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# Counted by the workers and sent over the link.
WORKER_METRICS = (
    Metric(
        "headgate_requests_total",
        "counter",
        "Requests answered, by route, reason and status code (499: the client left).",
        ("route", "reason", "code"),
    ),
    Metric(
        "headgate_request_duration_seconds",
        "histogram",
        "From the first byte of a request to the last byte of its answer.",
        ("route",),
        SECONDS,
    ),
    Metric(
        "headgate_time_to_first_token_seconds",
        "histogram",
        "From the first byte of a streamed request to the commit of its answer.",
        ("route",),
        SECONDS,
    ),
    Metric("headgate_overhead_seconds", "histogram", "Time of a request that no backend was busy with.", ("route",), OVERHEAD_SECONDS),
    Metric("headgate_hold_seconds", "histogram", "From the first byte of a reply to its commit.", ("route",), SECONDS),
    Metric(
        "headgate_ood_total", "counter", "Requests that a guard looked at: out of distribution true, false or unscored.", ("route", "ood")
    ),
    Metric(
        "headgate_scoring_requests_total",
        "counter",
        "Texts for the scoring process: ok, unavailable (no word in it), late (its deadline was over), full (too many waited), away (no "
        "connection), failed, left (the client went).",
        ("detector", "result"),
    ),
    Metric("headgate_scoring_seconds", "histogram", "From asking the scoring process to its answer.", ("detector",), SECONDS),
    Metric("headgate_scoring_waiting", "gauge", "Texts that the scoring process has been asked about and has not answered."),
    Metric(
        "headgate_score_status_total",
        "counter",
        "Replies of cascade stages that were judged, by what their scores rested on: ok, partial, truncated or unavailable.",
        ("route", "backend", "status"),
    ),
    Metric(
        "headgate_deferrals_total",
        "counter",
        "Stages whose reply was not served, by the score that decided or what did in its place.",
        ("route", "backend", "by"),
    ),
    Metric("headgate_defer_limited_total", "counter", "Replies that were not deferred because defer_limit was exceeded.", ("route",)),
    Metric(
        "headgate_hedges_total",
        "counter",
        "Second calls beside a slow one: sent, won, over_budget or no_replica.",
        ("route", "result"),
    ),
    Metric(
        "headgate_audits_total",
        "counter",
        "Audits of a cascade's decisions: agreed, disagreed, or why that could not be told (error, busy, timeout, too_long, "
        "not_comparable, stopped).",
        ("route", "purpose", "result"),
    ),
    Metric("headgate_audits_in_flight", "gauge", "Answers that are being audited, counted from their commit."),
    Metric("headgate_upstream_calls_total", "counter", "Calls to a backend by result: ok, or the kind of error.", ("backend", "result")),
    Metric("headgate_upstream_call_duration_seconds", "histogram", "From sending a call to the end of its reply.", ("backend",), SECONDS),
    Metric(
        "headgate_upstream_first_token_seconds", "histogram", "From sending a streamed call to its first content.", ("backend",), SECONDS
    ),
    Metric("headgate_upstream_retries_total", "counter", "Attempts that were tried again, by why.", ("backend", "result")),
    Metric("headgate_upstream_retries_denied_total", "counter", "Retries that the budget did not allow.", ("backend",)),
    Metric("headgate_upstream_breaker_open", "gauge", "Replicas of a backend whose breaker is open in this worker.", ("backend",)),
    Metric("headgate_upstream_in_flight", "gauge", "Calls under way.", ("backend",)),
    Metric("headgate_upstream_queue_depth", "gauge", "Calls waiting for the concurrency limit.", ("backend",)),
    Metric(
        "headgate_upstream_queue_refused_total",
        "counter",
        "Calls refused because the queue was full or the wait too long.",
        ("backend", "why"),
    ),
    Metric("headgate_client_disconnects_total", "counter", "Clients that left before their answer was whole.", ("phase",)),
    Metric("headgate_tokens_total", "counter", "Tokens by kind: input or output.", ("route", "backend", "kind")),
    Metric("headgate_cost_total", "counter", "Cost by the price in the policy, in its currency.", ("route", "backend", "currency")),
    Metric("headgate_segment_requests_total", "counter", "Requests by declared segment and value.", ("route", "segment", "value")),
    Metric("headgate_unit_missing_total", "counter", "Requests that had none of the route's units.", ("route",)),
    Metric("headgate_records_emitted_total", "counter", "Records handed to the link."),
    Metric("headgate_records_dropped_total", "counter", "Records lost, by why.", ("why",)),
    Metric("headgate_records_queue_depth", "gauge", "Records waiting for the link."),
    Metric("headgate_connections_open", "gauge", "Open client connections."),
    Metric("headgate_connections_refused_total", "counter", "Client connections refused at the limit."),
    Metric("headgate_exchanges_in_flight", "gauge", "Requests being answered."),
    Metric("headgate_wire_errors_total", "counter", "Requests that were not good HTTP, or too large or too slow, by status.", ("code",)),
    Metric("headgate_snapshots_alive", "gauge", "Policy snapshots not yet retired."),
    Metric("headgate_event_loop_lag_seconds", "histogram", "How late a timer of the worker fires.", (), OVERHEAD_SECONDS),
)

# Kept by the controller itself.
CONTROLLER_METRICS = (
    Metric("headgate_policy_info", "gauge", "1 for the policy version in force.", ("version",)),
    Metric("headgate_policy_reloads_total", "counter", "Reloads by result: ok, rejected, unchanged, rolled_back.", ("result",)),
    Metric("headgate_policy_rejected", "gauge", "1 while the file on disk is not the policy in force because it was rejected."),
    Metric("headgate_policy_pinned", "gauge", "1 while a rollback pins the policy."),
    Metric("headgate_backend_ready", "gauge", "1 for a replica that answered its last probe.", ("backend", "replica")),
    Metric(
        "headgate_backend_evidence_ok", "gauge", "1 while a replica gives the evidence that the policy declares.", ("backend", "replica")
    ),
    Metric("headgate_probe_seconds", "histogram", "Time of a readiness probe.", ("backend",), SECONDS),
    Metric("headgate_workers", "gauge", "Workers connected to the controller."),
    Metric("headgate_worker_restarts_total", "counter", "Processes that the supervisor had to start again.", ("process",)),
    Metric("headgate_records_stored_total", "counter", "Records written to the store."),
    Metric("headgate_records_deleted_total", "counter", "Records deleted by age or size.", ("why",)),
    Metric("headgate_records_clock_jumps_total", "counter", "Jumps ahead of the wall clock that records were not aged by."),
    Metric("headgate_records_store_errors_total", "counter", "What the record store could not do, by operation.", ("operation",)),
    Metric("headgate_records_content_dropped_total", "counter", "Requests or answers not stored because redaction failed.", ("why",)),
    Metric("headgate_records_store_bytes", "gauge", "Size of the record store."),
    Metric("headgate_records_queue_wait", "gauge", "Records waiting for the store."),
    Metric("headgate_spans_exported_total", "counter", "OpenTelemetry spans handed to the exporter."),
    Metric("headgate_spans_dropped_total", "counter", "OpenTelemetry spans lost.", ("why",)),
    Metric("headgate_metrics_ignored_total", "counter", "Samples from a worker of another version that this controller does not know."),
    Metric(
        "headgate_audit_loss",
        "gauge",
        "Share of a cascade's requests that lost by it, as audits show: lower bound, estimate, upper bound, and the epsilon promised.",
        ("route", "bound"),
    ),
    Metric(
        "headgate_audit_promise",
        "gauge",
        "1 for the state of a cascade's promise: no_promise, unconfirmed, kept, broken or disabled.",
        ("route", "state"),
    ),
    Metric("headgate_audit_tightened", "gauge", "How often audits have tightened a cascade's thresholds.", ("route",)),
    Metric("headgate_alerts", "gauge", "1 for each alert that is firing.", ("alert", "subject")),
    Metric("headgate_alert_deliveries_total", "counter", "Webhook deliveries by result.", ("result",)),
)

CATALOG = WORKER_METRICS + CONTROLLER_METRICS
