import timeit
from inspect import GEN_CREATED, getgeneratorstate

import pytest

from policies.plan import Features
from policies.snapshot import Decision, Needs, NoRoute
from tests.policies.building import ACME, ACME_DIGEST, GLOBEX, GLOBEX_DIGEST, backend, decide, decided, policy, route, route_of, snapshot

KEYS = [
    {"name": "acme", "sha256": ACME, "labels": {"tenant": "acme", "tier": "gold"}, "routes": ["chat", "gold"]},
    {"name": "globex", "sha256": GLOBEX, "labels": {"tenant": "globex"}},
]


@pytest.mark.key("routes[].matches[].models")
def test_the_model_name_decides_exactly() -> None:
    values = policy(routes=[route("a", matches=[{"models": ["x", "y"]}]), route("b", matches=[{"models": ["X", "y"]}])])
    assert route_of(values, "x") == "a"
    assert route_of(values, "y") == "a"
    assert route_of(values, "X") == "b"
    assert decide(values, "z") == NoRoute("model_not_found")
    assert decide(values, "") == NoRoute("model_not_found")


@pytest.mark.key("routes[].name")
def test_matches_are_tried_in_file_order_and_the_first_wins() -> None:
    any_model = {"headers": {"x-tier": ["gold"]}}
    values = policy(
        routes=[
            route("named", matches=[{"models": ["only"]}]),
            route("gold", matches=[any_model]),
            route("chat", matches=[{"models": ["other"]}, {"models": ["chat"]}]),
        ]
    )
    gold = {"x-tier": "gold"}
    assert route_of(values, "only", headers=gold) == "named"
    assert route_of(values, "chat", headers=gold) == "gold"
    assert route_of(values, "chat") == "chat"
    assert route_of(values, "unheard-of", headers=gold) == "gold"
    assert route_of(values, "unheard-of", headers={"x-tier": "silver"}) == "model_not_found"
    decision = decided(values, "chat")
    assert (decision.route.name, decision.route.index, decision.route.backends) == ("chat", 2, ("small",))


@pytest.mark.key("routes[].matches[].keys")
@pytest.mark.key("keys[].labels")
def test_labels_of_the_key_must_all_fit() -> None:
    matches = [{"models": ["chat"], "keys": {"tenant": ["acme", "globex"], "tier": ["gold"]}}]
    values = policy(routes=[route(matches=matches)])
    assert route_of(values, labels={"tenant": "acme", "tier": "gold"}) == "chat"
    assert route_of(values, labels={"tenant": "acme"}) == "permission"
    assert route_of(values, labels={"tenant": "other", "tier": "gold"}) == "permission"
    assert route_of(values) == "permission"
    assert route_of(values, "other", labels={"tenant": "acme", "tier": "gold"}) == "model_not_found"


@pytest.mark.key("routes[].matches[].headers")
def test_headers_must_all_fit_whatever_their_case_in_the_file() -> None:
    values = policy(routes=[route(matches=[{"models": ["chat"], "headers": {"X-Tier": ["gold", "silver"], "x-lane": ["1"]}}])])
    assert snapshot(values).needs.headers == {"x-tier", "x-lane"}
    assert route_of(values, headers={"x-tier": "silver", "x-lane": "1"}) == "chat"
    assert route_of(values, headers={"x-tier": "Silver", "x-lane": "1"}) == "model_not_found"
    assert route_of(values, headers={"x-tier": "gold"}) == "model_not_found"


@pytest.mark.key("keys[].routes")
def test_a_route_that_the_key_may_not_use_is_passed_over() -> None:
    same = [{"models": ["chat"]}]
    values = policy(routes=[route("first", matches=same), route("chat", matches=same), route("gold")], keys=KEYS)
    assert route_of(values, key="globex") == "first"
    assert route_of(values, key="acme") == "chat"
    assert route_of(values, "gold", key="acme") == "gold"
    values["routes"] = [route("first", matches=same), route("chat", matches=[{"models": ["x"]}]), route("gold")]
    assert route_of(values, key="acme") == "permission"


def test_a_plan_comes_unstarted_and_anew_for_every_request() -> None:
    found = snapshot(policy())
    first, second = (found.decide(Features("x", "chat", "chat")) for _ in range(2))
    assert isinstance(first, Decision)
    assert isinstance(second, Decision)
    assert first.plan is not second.plan
    assert getgeneratorstate(first.plan) == GEN_CREATED
    assert next(first.plan).backend == "small"


@pytest.mark.key("keys[].sha256")
@pytest.mark.key("keys[].name")
def test_a_key_is_found_by_its_digest() -> None:
    found = snapshot(policy(routes=[route(), route("gold")], keys=KEYS))
    acme, globex = found.key(ACME_DIGEST), found.key(GLOBEX_DIGEST)
    assert acme is not None
    assert globex is not None, "the digest in the environment is in capitals"
    assert (acme.name, acme.labels["tier"], globex.name) == ("acme", "gold", "globex")
    assert found.key(bytes(32)) is None
    assert found.key(b"") is None


@pytest.mark.key("keys[].debug")
def test_a_key_may_debug_only_where_the_file_says_so() -> None:
    found = snapshot(policy(keys=[{"name": "a", "sha256": ACME, "debug": True}, {"name": "b", "sha256": GLOBEX}]))
    acme, globex = found.key(ACME_DIGEST), found.key(GLOBEX_DIGEST)
    assert acme is not None
    assert globex is not None
    assert acme.debug
    assert not globex.debug


def test_models_are_those_that_the_key_may_ask_for() -> None:
    routes = [
        route("chat", matches=[{"models": ["z", "a"]}, {"models": ["g"], "keys": {"tenant": ["globex"]}}]),
        route("gold", matches=[{"models": ["gold"], "keys": {"tier": ["gold"]}}]),
        route("open", matches=[{"models": ["a", "o"], "headers": {"x-lane": ["1"]}}, {"headers": {"x-lane": ["2"]}}]),
    ]
    found = snapshot(policy(routes=routes, keys=KEYS))
    assert found.models(found.key(ACME_DIGEST)) == ("a", "gold", "z")
    assert found.models(found.key(GLOBEX_DIGEST)) == ("a", "g", "o", "z")
    assert found.models(None) == ("a", "o", "z")


def test_needs_are_what_the_routes_use() -> None:
    segments = [{"name": "length", "from": "prompt_chars", "edges": [10]}, {"name": "lane", "from": "header:X-Lane", "values": ["1"]}]
    assert snapshot(policy(segments=segments)).needs == Needs(False, frozenset(), False, False)
    values = policy(
        segments=segments,
        backends=[backend("small", balance="prefix_hash"), backend("idle")],
        routes=[route(segments=["length", "lane"], unit=["header:X-User", "body:user"])],
    )
    assert snapshot(values).needs == Needs(True, frozenset({"x-lane", "x-user"}), True, True)
    values["backends"] = [backend("small"), backend("idle", balance="prefix_hash")]
    assert not snapshot(values).needs.affinity, "nobody calls the one that asks for it"


@pytest.mark.key("backends[].name")
def test_backends_are_found_by_name() -> None:
    found = snapshot(policy())
    assert list(found.backends) == ["small", "big", "huge"]
    assert found.backends["big"].model == "big-model"


@pytest.mark.key("routes[].keep_alive_after")
def test_keep_alive_is_handed_on_in_seconds_and_off_by_default() -> None:
    values = policy(routes=[route(), route("kept", keep_alive_after="1500ms")])
    assert decided(values, "chat").route.keep_alive_after is None
    assert decided(values, "kept").route.keep_alive_after == 1.5


def test_a_decision_among_a_thousand_routes_takes_microseconds() -> None:
    segments = [
        {"name": "tenant", "from": "key:tenant", "values": ["acme"]},
        {"name": "length", "from": "prompt_chars", "edges": [200, 1000]},
    ]
    routes = [
        route(f"r{i}", failover=["small", "big"], segments=["tenant", "length"], unit=["header:x-user-id", "key"]) for i in range(1_000)
    ]
    found = snapshot(policy(segments=segments, routes=routes, keys=KEYS[1:]))
    features = Features("x", "chat", "r999", key="globex", labels={"tenant": "globex"}, headers={"x-user-id": "u"}, prompt_chars=500)
    assert isinstance(found.decide(features), Decision)
    microseconds = min(timeit.repeat(lambda: found.decide(features), number=1_000, repeat=5)) * 1_000
    assert microseconds < 20, "it takes about 2; a scan of the routes would take hundreds"
