"""What is wrong with a policy beyond single values: names that dangle, limits that contradict, conditions that cannot be.

Every function looks at one part and reports all it finds. Backends and routes have files of their own.
"""

from __future__ import annotations

import re
from itertools import pairwise

from policies.check_backends import check_backend
from policies.check_guard import check_detectors
from policies.check_routes import check_overlaps, check_route
from policies.errors import Report, nearest, shown
from policies.findings import Findings, url_fault
from policies.read import Reading
from policies.redaction import pattern_fault
from policies.schema import Key, Segment

REDACTIONS = ("email", "phone", "card", "iban")
_SOURCES = ("key:LABEL", "header:NAME", "prompt_chars")


def check(reading: Reading, errors: Report, warnings: Report) -> None:
    """Everything that is wrong with a whole policy."""
    findings = Findings(reading, errors, warnings)
    policy = findings.policy
    for collection in ("backends", "detectors", "segments", "routes", "keys"):
        entries = getattr(policy, collection)
        findings.unique(((f"{collection}[{i}].name", entry.name) for i, entry in enumerate(entries)), collection)
    for index, backend in enumerate(policy.backends):
        check_backend(findings, f"backends[{index}]", backend)
    check_detectors(findings, policy.detectors)
    for index, segment in enumerate(policy.segments):
        _check_segment(findings, f"segments[{index}]", segment)
    for index, route in enumerate(policy.routes):
        check_route(findings, f"routes[{index}]", route)
    digests: dict[str, str] = {}
    for index, key in enumerate(policy.keys):
        _check_key(findings, f"keys[{index}]", key, digests)
    for index, rule in enumerate(policy.records.content.redact):
        _check_redaction(findings, f"records.content.redact[{index}]", rule)
    findings.without_repeats("records.content.redact", policy.records.content.redact)
    for index, webhook in enumerate(policy.alerts.webhooks):
        fault = url_fault(webhook.url)
        if fault:
            findings.error(f"alerts.webhooks[{index}].url", f"the URL {fault}")
    check_overlaps(findings)


def _check_segment(findings: Findings, path: str, segment: Segment) -> None:
    source = segment.from_
    if source.startswith("header:"):
        findings.header(f"{path}.from", source.removeprefix("header:"))
    elif source != "prompt_chars" and not (source.startswith("key:") and len(source) > len("key:")):
        hint = nearest(source, _SOURCES)
        findings.error(f"{path}.from", f"expected key:LABEL, header:NAME or prompt_chars, not {shown(source)}", hint)
        return
    if not findings.readable(f"{path}.from"):
        return
    wanted, useless = ("edges", ("values", "else")) if source == "prompt_chars" else ("values", ("edges",))
    if not (segment.edges if wanted == "edges" else segment.values) and findings.complete(path):
        findings.error(path, f'"{wanted}" is missing: a segment from {source} is cut by them')
    for name in useless:
        if findings.written(f"{path}.{name}"):
            findings.error(f"{path}.{name}", f"has no meaning for a segment from {source}")
    findings.without_repeats(f"{path}.values", segment.values)
    for index, (low, high) in enumerate(pairwise(segment.edges)):
        if low >= high:
            findings.error(f"{path}.edges[{index + 1}]", f"edges must ascend: {high} comes after {low}")


def _check_key(findings: Findings, path: str, key: Key, digests: dict[str, str]) -> None:
    here = f"{path}.sha256"
    if not re.fullmatch("[0-9a-fA-F]{64}", key.sha256):
        findings.error(here, "the reference must give 64 hex digits and nothing else", "`headgate key new` prints a key and its digest")
    elif findings.readable(here):
        first = digests.setdefault(key.sha256.lower(), path)
        if first != path:
            findings.error(here, f"the same key as {first}")
    for index, name in enumerate(key.routes or ()):
        findings.refers(f"{path}.routes[{index}]", name, "routes", "route")
    findings.without_repeats(f"{path}.routes", key.routes or ())


def _check_redaction(findings: Findings, path: str, rule: str) -> None:
    if rule in REDACTIONS:
        return
    if not rule.startswith("regex:"):
        findings.error(path, f"expected one of {', '.join(REDACTIONS)} or regex:..., not {shown(rule)}", nearest(rule, REDACTIONS))
        return
    fault = pattern_fault(rule.removeprefix("regex:"))
    if fault:
        findings.error(path, f"the pattern {fault}")
