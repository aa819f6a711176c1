"""What a worker remembers of a route: its share of deferrals, over reloads that change something else."""

from __future__ import annotations

from gateway.exchange.memory import RouteMemory, memories
from policies.defer_limit import JUDGED_MIN
from policies.plan import Judgement, RouteState
from policies.schema import Backend, Policy, Route
from policies.schema_rules import Cascade, DeferLimit, Hedge, Stage

DEFERRED = (Judgement(0, True, "mean_logprob"),)
ACCEPTED = (Judgement(0, False, "mean_logprob"),)


def route(percent: float = 50.0, **more: object) -> Route:
    limit = DeferLimit(percent=percent)
    return Route("main", (), cascade=Cascade((Stage("small"),), "big", defer_limit=limit), **more)  # type: ignore[arg-type]


def full(known: RouteMemory) -> RouteMemory:
    for _ in range(JUDGED_MIN):
        known.judged(DEFERRED, 1.0)
    return known


def test_the_limit_is_exceeded_where_too_much_was_deferred() -> None:
    known = RouteMemory(route(), {}, None)
    assert known.state(1.0) == RouteState()
    assert full(known).state(1.0) == RouteState(defer_limited=True)
    assert known.state(1_000.0) == RouteState(), "the window is over"


def test_what_was_not_judged_does_not_count() -> None:
    known = RouteMemory(route(), {}, None)
    for _ in range(JUDGED_MIN):
        known.judged((Judgement(0, True, "error"),), 1.0)
        known.judged((), 1.0)
    assert known.window is not None
    assert known.window.share(1.0) == 0.0
    known.judged(ACCEPTED, 1.0)
    known.judged(DEFERRED, 1.0)
    assert known.window.share(1.0) == 0.5


def test_a_reload_that_changes_something_else_forgets_nothing() -> None:
    before = full(RouteMemory(route(), {}, None))
    assert RouteMemory(route(keep_alive_after=5.0), {}, before).state(1.0).defer_limited
    assert not RouteMemory(route(percent=60.0), {}, before).state(1.0).defer_limited
    hedged = RouteMemory(route(hedge=Hedge(after=1.0)), {}, before)
    assert RouteMemory(route(hedge=Hedge(after=1.0)), {}, hedged).hedging is hedged.hedging
    assert RouteMemory(route(hedge=Hedge(after=2.0)), {}, hedged).hedging is not hedged.hedging


def test_plain_routes_have_none() -> None:
    policy = Policy(1, (Backend("small", "openai", "m"),), (Route("plain", (), backend="small"), route()))
    assert list(memories(policy, {}, {})) == ["main"]
