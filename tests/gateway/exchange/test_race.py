"""Races: the second call goes out once the first is slow, the first that begins to answer serves, the others are cancelled."""

from __future__ import annotations

import pytest

from gateway.exchange.hedging import KEPT, KNOWN_MIN, SAVED_MAX, HedgeBudget, Hedging, UsualTime
from gateway.exchange.memory import RouteMemory
from gateway.upstream.fake import FakeCall
from policies.plan import Answer, Call, Outcome, Plan, Race, ask
from policies.schema import Route
from policies.schema_rules import Hedge
from tests.gateway.exchange.rig import CONNECT, DONE, SSE, Rig, event


def memory(percent: float = 100.0) -> RouteMemory:
    return RouteMemory(Route("main", (), hedge=Hedge(after=0.2, budget_percent=percent, to="big")), {}, None)


def racing(seen: list[Outcome], after: float | str = 0.2, *, second: str = "big", other_replica: bool = False) -> Plan:
    outcome = yield from ask(Race((Call("small"), Call(second)), after, 100.0, other_replica))  # type: ignore[arg-type]
    seen.append(outcome)
    return Answer(outcome, "hedge" if outcome.place else "primary")


def speak(call: FakeCall, text: str = "one") -> None:
    call.head(200, SSE)
    call.body(event(text))


def finish(call: FakeCall) -> None:
    call.body(event("", "stop") + DONE)
    call.end()


def test_a_first_call_that_is_quick_runs_alone() -> None:
    seen: list[Outcome] = []
    rig = Rig(racing(seen), memory=memory())
    rig.pass_time(0.199)
    speak(rig.call())
    rig.pass_time(1)
    assert rig.upstreams["big"].calls == []
    finish(rig.call())
    assert (seen[0].place, seen[0].sent, rig.record.reason) == (0, 1, "primary")


def test_the_second_serves_where_it_is_quicker_and_the_first_is_cancelled_at_once() -> None:
    seen: list[Outcome] = []
    rig = Rig(racing(seen), memory=memory())
    small = rig.call()
    small.head(200, SSE)
    rig.pass_time(0.201)
    assert not small.cancelled, "the second does not end the first"
    speak(rig.call("big"), "two")
    assert small.cancelled
    finish(rig.call("big"))
    assert (seen[0].call, seen[0].place, seen[0].sent) == (1, 1, 2)
    assert rig.reply.headers["x-headgate-reason"] == "hedge"
    assert rig.reply.body.startswith(event("two"))
    assert [call.result for call in rig.record.calls] == ["cancelled", "ok"]
    assert rig.counted("headgate_hedges_total", "main", "sent") == rig.counted("headgate_hedges_total", "main", "won") == 1


def test_the_first_serves_where_it_is_quicker_after_all() -> None:
    seen: list[Outcome] = []
    rig = Rig(racing(seen), memory=memory())
    rig.pass_time(0.3)
    speak(rig.call())
    assert rig.call("big").cancelled
    finish(rig.call())
    assert (seen[0].place, seen[0].sent, rig.record.reason) == (0, 2, "primary")


def test_a_failure_before_the_second_is_sent_is_the_end_of_the_race() -> None:
    seen: list[Outcome] = []
    rig = Rig(racing(seen), memory=memory())
    rig.call().fail(CONNECT)
    rig.pass_time(1)
    assert rig.upstreams["big"].calls == []
    assert (seen[0].error, seen[0].sent, rig.record.code) == (CONNECT, 1, 502)


@pytest.mark.parametrize("order", [("small", "big"), ("big", "small")])
def test_a_failure_leaves_the_race_to_the_other_and_the_last_one_is_told(order: tuple[str, str]) -> None:
    seen: list[Outcome] = []
    rig = Rig(racing(seen), memory=memory())
    rig.pass_time(0.3)
    first, last = order
    rig.call(first).fail(CONNECT)
    assert seen == []
    rig.call(last).fail(CONNECT)
    assert (seen[0].backend, seen[0].sent, seen[0].place) == (last, 2, ("small", "big").index(last))
    assert rig.record.code == 502


def test_a_client_that_leaves_ends_all_of_the_race() -> None:
    rig = Rig(racing([]), memory=memory())
    rig.pass_time(0.3)
    rig.reply.leave()
    assert rig.call().cancelled
    assert rig.call("big").cancelled
    assert rig.record.code == 499


def test_a_client_that_leaves_before_leaves_no_second_call_behind() -> None:
    rig = Rig(racing([]), memory=memory())
    rig.reply.leave()
    rig.pass_time(1)
    assert rig.upstreams["big"].calls == []


def test_without_another_replica_no_second_call_is_sent() -> None:
    rig = Rig(racing([], second="small", other_replica=True), memory=memory())
    rig.upstreams["small"].others = False
    rig.pass_time(0.3)
    assert len(rig.upstreams["small"].calls) == 1
    assert rig.counted("headgate_hedges_total", "main", "no_replica") == 1
    speak(rig.call())
    finish(rig.call())


def test_the_second_call_is_told_where_the_first_one_is() -> None:
    rig = Rig(racing([], second="small", other_replica=True), memory=memory())
    rig.pass_time(0.3)
    first, second = rig.upstreams["small"].calls
    assert (first.ask.avoid, second.ask.avoid) == ((), ("http://fake:1",))
    rig.reply.leave()


def test_a_budget_that_is_spent_leaves_the_first_call_alone() -> None:
    known = memory(1.0)
    assert known.hedging is not None
    for sent in (1, 0, 0):
        rig = Rig(racing([]), memory=known)
        rig.pass_time(0.3)
        assert len(rig.upstreams["big"].calls) == sent
        rig.reply.leave()
    assert rig.counted("headgate_hedges_total", "main", "over_budget") == 1


def test_of_a_backend_that_nothing_is_known_of_there_is_no_percentile_and_no_second_call() -> None:
    known = memory()
    for _ in range(KNOWN_MIN):
        rig = Rig(racing([], "p50"), memory=known)
        rig.pass_time(5)
        assert rig.upstreams["big"].calls == []
        speak(rig.call())
        finish(rig.call())
    rig = Rig(racing([], "p50"), memory=known)
    rig.pass_time(4.9)
    assert rig.upstreams["big"].calls == []
    rig.pass_time(0.2)
    assert len(rig.upstreams["big"].calls) == 1
    rig.reply.leave()


def test_a_race_on_a_route_without_a_hedge_is_a_bug_of_the_policy() -> None:
    rig = Rig(racing([]))
    assert rig.reply.error["code"] == "policy_error"


def test_the_budget_saves_a_share_of_each_call_and_not_more_than_so_many() -> None:
    budget = HedgeBudget(10.0)
    assert budget.spend()
    assert not budget.spend()
    for _ in range(11):
        budget.called()
    assert budget.spend()
    assert not budget.spend()
    for _ in range(10_000):
        budget.called()
    assert sum(budget.spend() for _ in range(100)) == SAVED_MAX


def test_usual_times_are_those_of_late() -> None:
    usual = UsualTime()
    for number in range(KNOWN_MIN - 1):
        usual.took(number)
    assert usual.percentile(0.5) is None
    usual.took(KNOWN_MIN - 1)
    assert (usual.percentile(0.5), usual.percentile(0.95)) == (9, 18)
    for _ in range(KEPT):
        usual.took(7.0)
    assert usual.percentile(0.99) == 7.0


def test_one_that_was_beaten_counts_with_the_time_it_had() -> None:
    known = memory()
    rig = Rig(racing([]), memory=known)
    rig.pass_time(3)
    speak(rig.call("big"))
    finish(rig.call("big"))
    hedging = known.hedging
    assert isinstance(hedging, Hedging)
    assert hedging.delay("small", 0.25) == 0.25
    for _ in range(KNOWN_MIN - 1):
        hedging.took("small", 1.0)
    assert hedging.delay("small", "p99") == 3.0
    assert hedging.delay("big", "p99") is None
