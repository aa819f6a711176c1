from typing import Any

from policies.compile import decode
from policies.diff import Change, diff
from tests.policies.building import ACME, backend, loaded, policy, route


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [str(change) for change in diff(loaded(old).policy, loaded(new).policy)]


def test_nothing_changes_between_two_spellings() -> None:
    assert changes(policy(), policy(server={"deadline": "600s"}, segments=[])) == []


def test_what_changes_is_said_in_the_words_of_the_file() -> None:
    old = policy(routes=[route(), route("a"), route("b")], server={"drain": "30s"})
    new = policy(
        backends=[backend("small", timeouts={"total": "2m"}, price={"input": 0.5}), backend("big", replicas=["http://big:1", "http://big:2"]),
                  backend("new")],
        routes=[route("b"), route(backend="big"), route("c", failover=["small", "big"], unit=["key"])],
        server={"drain": "1m", "body_max": "1MiB"},
        keys=[{"name": "acme", "sha256": ACME}],
        records={"content": {"store": True}},
    )  # fmt: skip
    assert changes(old, new) == [
        "backend small: timeouts.total 5m -> 2m",
        "backend small: price none -> {input: 0.5}",
        "backend big: replicas [http://big:8000] -> [http://big:1, http://big:2]",
        "backend huge: removed",
        "backend new: added",
        "route chat: backend small -> big",
        "route a: removed",
        "route c: added",
        "routes: order [chat, b] -> [b, chat]",
        "server: body_max 32MiB -> 1MiB",
        "server: drain 30s -> 1m",
        "records: content.store false -> true",
        "key acme: added",
    ]


def test_matches_are_shown_as_they_are_written() -> None:
    old = policy(routes=[route(matches=[{"models": ["a"]}])])
    new = policy(routes=[route(matches=[{"models": ["a", "1"], "keys": {"tenant": ["x"]}}])])
    assert changes(old, new) == ['route chat: matches [{models: [a]}] -> [{models: [a, "1"], keys: {tenant: [x]}}]']


def test_changed_secrets_are_told_of_and_not_shown() -> None:
    old = policy(
        backends=[backend("small", api_key="${env:VLLM_KEY}"), backend("big")],
        keys=[{"name": "k", "sha256": "${env:ACME_SHA256}"}],
        alerts={"webhooks": [{"url": "${env:ALERT_URL}"}]},
    )
    new = policy(
        backends=[backend("small", api_key="${env:ALERT_URL}"), backend("big", api_key="${env:VLLM_KEY}")],
        keys=[{"name": "k", "sha256": "${env:GLOBEX_SHA256}"}],
        alerts={"webhooks": []},
    )
    said = [
        "backend small: api_key changed",
        "backend big: api_key set",
        "alerts: webhooks [{url: (secret)}] -> none",
        "key k: sha256 changed",
    ]
    assert changes(old, new) == said
    hashed = diff(decode(loaded(old).canonical), decode(loaded(new).canonical))
    assert [str(change) for change in hashed] == said, "the canonical forms, which hold no secrets, differ in the same way"


def test_another_webhook_is_told_of_though_both_are_shown_alike() -> None:
    form = loaded(policy(alerts={"webhooks": [{"url": "${env:ALERT_URL}"}]})).canonical
    old = decode(form)
    new = decode(form.replace(old.alerts.webhooks[0].url.encode(), b"sha256:0"))
    assert [str(change) for change in diff(old, new)] == ["alerts: webhooks changed"]


def test_a_long_value_is_cut() -> None:
    old, new = policy(), policy(backends=[backend("small", warm_up={"prompts": ["x" * 1000]}), backend("big"), backend("huge")])
    (change,) = diff(loaded(old).policy, loaded(new).policy)
    assert change.what == "changed"
    assert len(change.detail) < 250
    assert change == Change("changed", "backend small", change.detail)
