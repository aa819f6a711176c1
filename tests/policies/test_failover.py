import pytest

from policies.failover import Failover, Single, helped_by_another
from policies.plan import HOLD_NONE, Answer, Call, CallError, Features, Outcome, Plan, Refuse, Rule

FEATURES = Features("x-1", "chat", "chat")
REFUSED = CallError("connect", "refused")


def played(rule: Rule, *errors: CallError | None) -> tuple[list[str], Answer | Refuse]:
    """The backends asked, and the verdict, where the calls come to these errors."""
    plan: Plan = rule.decide(FEATURES)
    asked: list[str] = []
    verb = next(plan)
    try:
        for number, error in enumerate(errors):
            assert verb == Call(verb.backend, HOLD_NONE)
            asked.append(verb.backend)
            verb = plan.send(Outcome(number, verb.backend, error))
    except StopIteration as stop:
        verdict: Answer | Refuse = stop.value
        return asked, verdict
    raise AssertionError(f"asks {verb.backend} too")


@pytest.mark.key("routes[].backend")
@pytest.mark.parametrize("error", [None, REFUSED])
def test_a_single_backend_answers_whatever_came_of_it(error: CallError | None) -> None:
    assert Single("small").backends() == ("small",)
    assert played(Single("small"), error) == (["small"], Answer(Outcome(0, "small", error), "primary"))


@pytest.mark.key("routes[].failover")
def test_the_first_that_begins_to_answer_serves() -> None:
    rule = Failover(("a", "b", "c"))
    assert rule.backends() == ("a", "b", "c")
    assert played(rule, None) == (["a"], Answer(Outcome(0, "a"), "primary"))
    assert played(rule, REFUSED, None) == (["a", "b"], Answer(Outcome(1, "b"), "failover"))
    assert played(rule, REFUSED, REFUSED, None) == (["a", "b", "c"], Answer(Outcome(2, "c"), "failover"))


def test_where_all_fail_the_last_failure_is_the_answer() -> None:
    last = CallError("status", "overloaded", status=503, retry_after_s=2)
    assert played(Failover(("a", "b")), REFUSED, last) == (["a", "b"], Answer(Outcome(1, "b", last), "failover"))


@pytest.mark.parametrize(
    "error",
    [
        CallError("status", "no such tool", status=400, request_at_fault=True),
        CallError("deadline", "time is up"),
        CallError("cancelled", "the client left"),
    ],
)
def test_nobody_else_is_asked_where_nobody_could_do_better(error: CallError) -> None:
    assert not helped_by_another(error)
    assert played(Failover(("a", "b")), error) == (["a"], Answer(Outcome(0, "a", error), "primary"))
    assert played(Failover(("a", "b", "c")), REFUSED, error) == (["a", "b"], Answer(Outcome(1, "b", error), "failover"))


@pytest.mark.parametrize(
    "error",
    [
        CallError("status", "broken", status=500),
        CallError("status", "full", status=429),
        CallError("unready", ""),
        CallError("breaker_open", ""),
        CallError("queue_full", ""),
        CallError("timeout_first_token", ""),
        CallError("truncated", ""),
        CallError("error_event", ""),
        CallError("too_large", ""),
    ],
)
def test_any_other_failure_goes_to_the_next(error: CallError) -> None:
    assert played(Failover(("a", "b")), error, None) == (["a", "b"], Answer(Outcome(1, "b"), "failover"))


def test_a_plan_is_not_begun_by_being_made_and_may_be_closed_at_any_time() -> None:
    plan = Failover(("a", "b")).decide(FEATURES)
    plan.close()
    plan = Failover(("a", "b")).decide(FEATURES)
    next(plan)
    plan.close()
    with pytest.raises(StopIteration):
        next(plan)


def test_a_failover_without_backends_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="needs a backend"):
        Failover(())
