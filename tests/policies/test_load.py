import json
import subprocess
import sys
from typing import Any

import pytest

from policies.canonical import version
from policies.compile import compile_policy, decode, encode
from policies.errors import PROBLEMS_MAX, PolicyError, Problem
from policies.load import load
from policies.references import SECRET_BYTES_MAX
from tests.policies.building import ACME, backend, loaded, policy, route
from tests.policies.golden import ENVIRONMENT, FILES, FOLDER, load_text, read


def problems(values: dict[str, Any] | str | bytes) -> list[str]:
    with pytest.raises(PolicyError) as raised:
        load_text(json.dumps(values) if isinstance(values, dict) else values)
    assert str(raised.value) == "\n".join(map(str, raised.value.problems))
    return [f"{problem.path}: {problem.message}" for problem in raised.value.problems]


def test_problems_have_their_parts_and_come_by_position() -> None:
    text = "version: 1\nbackends:\n  - {name: b, kind: vlm}\nroutes: []\n"
    with pytest.raises(PolicyError) as raised:
        load_text(text)
    assert raised.value.problems == (
        Problem("policy.yaml", 3, 5, "backends[0]", '"model" is missing'),
        Problem(
            "policy.yaml", 3, 21, "backends[0].kind", 'expected one of vllm, ollama, openai, embedded, not "vlm"', 'did you mean "vllm"?'
        ),
        Problem("policy.yaml", 4, 9, "routes", "the list is empty"),
    )


def test_a_report_is_bounded() -> None:
    text = "\n".join(["version: 1", *(f"x{i}: 1" for i in range(PROBLEMS_MAX * 2))])
    with pytest.raises(PolicyError) as raised:
        load_text(text)
    assert len(raised.value.problems) == PROBLEMS_MAX + 1
    assert "the rest is not shown" in raised.value.problems[-1].message


@pytest.mark.key("version")
@pytest.mark.parametrize("value", [0, 2, "1", 1.0, True, None])
def test_the_version_of_the_language_is_one(value: object) -> None:
    assert len(problems(policy(version=value))) == 1


# Secrets


@pytest.mark.key("backends[].api_key")
@pytest.mark.parametrize("reference", ["${env:VLLM_KEY}", "${file:keys/vllm}"])
def test_a_secret_is_filled_in_for_workers_and_hashed_for_people(reference: str) -> None:
    found = loaded(policy(backends=[backend("small", api_key=reference)]))
    assert found.policy.backends[0].api_key == "hunter2"
    assert b"hunter2" in encode(found.policy)
    assert b"hunter2" not in found.canonical
    shown = decode(found.canonical).backends[0].api_key
    assert shown is not None
    assert shown.startswith("sha256:")


@pytest.mark.key("alerts.webhooks[].url")
def test_a_webhook_is_a_secret_url() -> None:
    found = loaded(policy(alerts={"webhooks": [{"url": "${env:ALERT_URL}"}]}))
    assert found.policy.alerts.webhooks[0].url == ENVIRONMENT["ALERT_URL"]
    assert b"hooks.example" not in found.canonical
    assert problems(policy(alerts={"webhooks": [{"url": "${env:VLLM_KEY}"}]})) == [
        "alerts.webhooks[0].url: the URL does not begin with http:// or https:// and a host"
    ]


def test_every_file_is_read_once_and_handed_on() -> None:
    reads: list[str] = []

    def counted(path: str) -> bytes:
        reads.append(path)
        return read(path)

    values = policy(backends=[backend("small", api_key="${file:keys/vllm}"), backend("big", api_key="${file:keys/vllm}")])
    values["keys"] = [{"name": "acme", "sha256": ACME}]
    found = load(json.dumps(values).encode(), name="p", read=counted, env={})
    assert sorted(reads) == ["keys/acme.sha256", "keys/vllm"]
    assert found.files == {path: FILES[path] for path in reads}


@pytest.mark.parametrize(
    "reference", ["sk-hunter2", "${env:}", "${ENV:VLLM_KEY}", "${env:VLLM_KEY} ", "x${env:VLLM_KEY}", "$VLLM_KEY", "${vault:a}", ""]
)
def test_what_is_no_reference_is_refused_without_being_shown(reference: str) -> None:
    (problem,) = problems(policy(backends=[backend("small", api_key=reference)]))
    assert problem == "backends[0].api_key: a secret is given by reference only"


@pytest.mark.parametrize("value", [7, True, ["sk-hunter2"], {"key": "sk-hunter2"}])
def test_a_secret_of_another_type_is_not_shown(value: object) -> None:
    assert "hunter2" not in str(problems(policy(backends=[backend("small", api_key=value)])))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file f is empty"),
        (b" \n", "the file f is empty"),
        (b"\xff", "the file f is not text"),
        (b"x" * (SECRET_BYTES_MAX + 1), "the file f has more than 65536 bytes"),
        (PermissionError(13, "Permission denied"), "cannot read the file f: Permission denied"),
        (OSError("odd"), "cannot read the file f: OSError"),
        (ValueError("embedded null byte"), "cannot read the file f: not a path"),
    ],
)
def test_a_file_that_cannot_serve_is_named(data: bytes | Exception, said: str) -> None:
    def read_it(path: str) -> bytes:
        if isinstance(data, Exception):
            raise data
        return data

    with pytest.raises(PolicyError) as raised:
        load(json.dumps(policy(backends=[backend("small", api_key="${file:f}")])).encode(), name="p", read=read_it, env={})
    assert raised.value.problems[0].message == said


def test_one_bad_value_does_not_hide_others_nor_make_up_new_ones() -> None:
    values = policy(
        backends=[backend("small", timeouts={"total": "soon"}), backend("big") | {"name": "bad name"}],
        routes=[route(failover=["small", "huge"]), route("other", shadow=[], backend=None)],
    )
    del values["routes"][1]["backend"]
    assert problems(values) == [
        "backends[0].timeouts.total: expected a duration such as 400ms, 5s, 10m, 72h or 7d, not \"soon\"",
        "backends[1].name: \"bad name\" is no name: letters, digits, '.', '_' and '-', at most 63, the first of them a letter or digit",
        "routes[1].shadow: not supported yet",
    ]  # fmt: skip


# The version


def canonical_version(values: dict[str, Any]) -> str:
    return loaded(values).version


def test_comments_layout_and_defaults_do_not_change_the_version() -> None:
    plain = (FOLDER / "right" / "one-backend.yaml").read_text()
    spelled = """
# The same, with every default of a backend written out.
"routes":
  - backend: 'small'
    matches: [{models: [my-model], keys: {}, headers: {}}]
    name: chat
    segments: []
server: {deadline: 600s, body_max: 32768KiB, anonymous: false, drain: 0.5m}
backends:
  - kind: vllm
    name: small
    model: "my-model"
    replicas: ["http://127.0.0.1:8000"]
    evidence: none
    timeouts: {connect: 2000ms, total: 5m}
    retries: {budget_percent: 10.0}
    readiness: {prompt: ping}
version: 0x1
"""
    assert load_text(plain).version == load_text(spelled).version


def test_what_a_policy_means_changes_its_version() -> None:
    base = policy(keys=[{"name": "a", "sha256": "${env:ACME_SHA256}"}])
    others = [
        base | {"server": {"drain": "31s"}},
        base | {"routes": [route(failover=["small", "big"])]},
        base | {"routes": [route(failover=["big", "small"])]},
        base | {"keys": [{"name": "a", "sha256": "${env:GLOBEX_SHA256}"}]},
        base | {"keys": [{"name": "a", "sha256": "${env:ACME_SHA256}", "labels": {"x": "y"}}]},
    ]
    versions = {canonical_version(values) for values in (base, *others)}
    assert len(versions) == 1 + len(others)
    assert all(len(found) == 16 and int(found, 16) >= 0 for found in versions)


def test_the_version_covers_the_files_that_are_named() -> None:
    found = loaded(policy(keys=[{"name": "a", "sha256": ACME}]))
    changed = {path: data + b"\n" for path, data in found.files.items()}
    assert version(found.canonical, found.files) == found.version
    assert version(found.canonical, changed) != found.version
    assert version(found.canonical, {}) != found.version


def test_labels_in_another_order_are_the_same_policy() -> None:
    one = policy(keys=[{"name": "a", "sha256": ACME, "labels": {"x": "1", "y": "2"}}])
    other = policy(keys=[{"name": "a", "sha256": ACME, "labels": {"y": "2", "x": "1"}}])
    assert loaded(one).canonical == loaded(other).canonical


# Warnings


def warnings(*routes: dict[str, Any], keys: list[dict[str, Any]] | None = None) -> list[str]:
    return [f"{problem.path}: {problem.message}" for problem in loaded(policy(routes=list(routes), keys=keys or [])).warnings]


def test_a_match_that_an_earlier_route_covers_is_never_reached() -> None:
    first, second = route("a", matches=[{"models": ["m", "n"]}]), route("b", matches=[{"models": ["m"], "headers": {"x": ["1"]}}])
    assert warnings(first, second) == [
        "routes[1].matches[0]: never reached: routes[0].matches[0] (route a) comes first and takes every request of it"
    ]
    assert "overlaps with routes[0]" in warnings(second, first)[0]


def test_a_route_is_reached_by_keys_that_may_not_use_the_one_before() -> None:
    same = [{"models": ["m"]}]
    keys = [{"name": "k", "sha256": ACME, "routes": ["b"]}]
    assert "overlaps with" in warnings(route("a", matches=same), route("b", matches=same), keys=keys)[0]


def test_matches_that_share_no_request_are_not_warned_of() -> None:
    assert not warnings(route("a", matches=[{"models": ["m"]}]), route("b", matches=[{"models": ["n"]}]))
    assert not warnings(
        route("a", matches=[{"models": ["m"], "headers": {"X-T": ["1"]}}]),
        route("b", matches=[{"models": ["m"], "headers": {"x-t": ["2"]}}]),
    )
    assert not warnings(route("a", matches=[{"models": ["m"]}, {"models": ["m"], "headers": {"x": ["1"]}}])), "of one route"


# For workers


def test_a_worker_decodes_what_was_encoded() -> None:
    found = load_text((FOLDER / "right" / "everything.yaml").read_bytes())
    assert decode(encode(found.policy)) == found.policy
    assert compile_policy(decode(encode(found.policy)), found.version, found.files).version == found.version


def test_compiling_reads_no_yaml_and_does_no_io() -> None:
    script = (
        "import sys; import policies.compile, policies.snapshot, policies.failover, policies.hashing, policies.match\n"
        "print(*sorted({'yaml', 'asyncio', 'socket', 'logging', 'random', 'numpy', 'policies.read', 'policies.check'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == ""
