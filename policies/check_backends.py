"""The checks of `backends`."""

from __future__ import annotations

from urllib.parse import urlsplit

from policies.errors import shown
from policies.findings import Findings, url_fault
from policies.schema import Backend
from policies.units import show_duration

EMBEDDED_MODELS = ("specialist", "specialist-queues", "generalist")
"""Those of `gateway/embedded/weights/card.json`. Written down again because a policy's check reads no file: a test compares the two."""
_EVIDENCE = {"ollama": ("none", "logprobs"), "openai": ("none", "logprobs")}
"""What a kind can give; the others can give all."""
_API_KEY_CHARS_MAX = 4096


def check_backend(findings: Findings, path: str, backend: Backend) -> None:
    """What is wrong with one backend, whose place in the file is `path`."""
    if findings.readable(f"{path}.kind"):
        _check_kind(findings, path, backend)
    _check_replicas(findings, path, backend)
    _check_timeouts(findings, path, backend)
    findings.without_repeats(f"{path}.retries.retry_on", backend.retries.retry_on)
    key = backend.api_key
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key and len(key) <= _API_KEY_CHARS_MAX):
        findings.error(f"{path}.api_key", "the key may only have printable ASCII characters and no spaces")
    findings.without_repeats(f"{path}.request.deny", backend.request.deny)
    findings.without_repeats(f"{path}.request.allow", backend.request.allow)
    for index, name in enumerate(backend.request.allow):
        if name in backend.request.deny:
            findings.error(f"{path}.request.allow[{index}]", f"{shown(name)} is denied and allowed")


def _check_kind(findings: Findings, path: str, backend: Backend) -> None:
    embedded = backend.kind == "embedded"
    if embedded and findings.readable(f"{path}.model") and backend.model not in EMBEDDED_MODELS:
        findings.error(f"{path}.model", f"expected one of {', '.join(EMBEDDED_MODELS)}, not {shown(backend.model)}")
    if embedded and findings.written(f"{path}.api_key"):
        findings.error(f"{path}.api_key", "an embedded backend has no key: it is a process of this gateway")
    if embedded and findings.written(f"{path}.replicas"):
        findings.error(f"{path}.replicas", "an embedded backend has no replicas: it is a process of this gateway", "leave it out")
    elif not embedded and not findings.written(f"{path}.replicas") and findings.complete(path):
        findings.error(path, f'"replicas" is missing; a backend of kind {backend.kind} has at least one')
    if findings.written(f"{path}.client_logprobs") and findings.readable(f"{path}.evidence") and backend.evidence != "logits":
        findings.warning(f"{path}.client_logprobs", f"changes nothing: it is for evidence: logits, and here it is {backend.evidence}")
    allowed = _EVIDENCE.get(backend.kind)
    if allowed and backend.evidence not in allowed:
        findings.error(
            f"{path}.evidence", f"a backend of kind {backend.kind} cannot give {backend.evidence}", f"it can give {' or '.join(allowed)}"
        )


def _check_replicas(findings: Findings, path: str, backend: Backend) -> None:
    if backend.kind != "embedded" and findings.written(f"{path}.replicas") and not backend.replicas:
        findings.error(f"{path}.replicas", "the list is empty")
    seen: dict[str, int] = {}
    for index, replica in enumerate(backend.replicas):
        here = f"{path}.replicas[{index}]"
        fault = url_fault(replica)
        if fault:
            # Not shown: a URL that is not in order may hold a password.
            findings.error(here, f"the URL {fault}", "such as http://127.0.0.1:8000")
            continue
        if urlsplit(replica).query:
            findings.error(here, "the URL of a replica has no query")
        elif urlsplit(replica).path.rstrip("/").endswith("/v1"):
            findings.error(here, "the URL of a replica ends before /v1", f'write "{replica.rstrip("/")[:-3]}"')
        if seen.setdefault(replica.rstrip("/").lower(), index) != index:
            findings.error(here, f"the replica {replica} stands here twice")


def _check_timeouts(findings: Findings, path: str, backend: Backend) -> None:
    """Only what the file says is held against it: a default that is longer than a short `total` is simply never reached."""
    limits = backend.timeouts
    for name, value in (("connect", limits.connect), ("first_token", limits.first_token), ("between_tokens", limits.between_tokens)):
        here = f"{path}.timeouts.{name}"
        if findings.written(here) and findings.readable(f"{path}.timeouts.total") and value > limits.total:
            findings.error(here, f"longer than the whole call may take: total is {show_duration(limits.total)}")
    if findings.written(f"{path}.timeouts.total") and limits.total > findings.policy.server.deadline:
        deadline = show_duration(findings.policy.server.deadline)
        findings.warning(f"{path}.timeouts.total", f"never reached: server.deadline ends an exchange after {deadline}")
