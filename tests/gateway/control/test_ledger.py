"""What a cascade's records and audits come to, and what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.cascade_report import CascadeReport, gauges, report, reports, violation
from gateway.control.ledger import VERSIONS_MAX
from gateway.control.ledgers import SEEN_MAX, Ledgers
from gateway.control.promise import promise
from gateway.link.messages import CascadeState, ExchangeRecord
from policies.load import Loaded
from tests.gateway.control.audited import THRESHOLD, accepted, audited_policy, call, deferred
from tests.gateway.records.examples import RECORD
from tests.policies.building import backend, loaded, policy


class Desk:
    """The ledgers of one controller, over a folder."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_000.0
        self.ledgers = Ledgers(str(folder), lambda: self.now)
        self.ledgers.restore()
        self.version = ""
        self.number = 0

    def put(self, found: Loaded) -> None:
        self.version = found.version
        self.ledgers.in_force(found.policy, found.version, found.files)

    def audit(self, count: int, *, wrong_every: int = 0, **more: Any) -> None:
        """So many audited accepted replies, of which every so manieth disagrees."""
        for _ in range(count):
            self.number += 1
            wrong = wrong_every and self.number % wrong_every == 0
            self.ledgers.take([accepted(self.number, self.version, not wrong, **more)])

    def take(self, *records: ExchangeRecord) -> None:
        self.ledgers.take(records)

    @property
    def report(self) -> CascadeReport:
        (found,) = reports(self.ledgers.look())
        return found

    def follows(self) -> tuple[str, int, bool, bool]:
        """State, how often tightened, disabled, and whether there is an alert."""
        found = self.report
        return found.state, found.tightened, found.disabled, violation(found) is not None


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("on_violation", "after"),
    [("alert", ("broken", 0, False, True)), ("tighten", ("broken", 1, False, True)), ("disable", ("disabled", 0, True, True))],
)
def test_what_follows_a_broken_promise_is_the_policys(desk: Desk, on_violation: str, after: tuple[str, int, bool, bool]) -> None:
    desk.put(audited_policy(on_violation=on_violation))
    assert desk.report.epsilon == 0.01
    desk.audit(500)
    assert desk.follows() == ("kept", 0, False, False)
    asked = 0
    while not desk.report.violations:
        desk.audit(10, wrong_every=10)
        asked += 10
        assert asked < 300
    desk.now = 2_000.0
    assert desk.follows() == after
    states = {"alert": (), "tighten": (CascadeState("chat", 1, False),), "disable": (CascadeState("chat", 0, True),)}
    assert desk.ledgers.overlay() == states[on_violation]
    assert "lost more than the 1 % that its cascade promised" in (violation(desk.report) or "")


def test_too_few_audits_confirm_nothing(desk: Desk) -> None:
    desk.put(audited_policy())
    assert (desk.report.loss, desk.report.loss_upper, desk.report.state) == (None, 1.0, "unconfirmed")
    desk.audit(100)
    assert (desk.report.loss, desk.report.state) == (0.0, "unconfirmed")
    desk.audit(400)
    assert desk.report.state == "kept"


def test_a_tightened_cascade_is_judged_by_what_it_does_since(desk: Desk) -> None:
    desk.put(audited_policy(on_violation="tighten"))
    desk.audit(200, wrong_every=10)
    assert desk.report.tightened == 1
    desk.audit(200, wrong_every=10)
    assert (desk.report.tightened, desk.report.bounded_audits) == (1, 0), "they were held against the threshold before"
    assert desk.report.stale > 200
    (_, ledger) = desk.ledgers.look()["chat"]
    assert ledger.share.requests == 1.0, "nor does their share of all requests count, now that less is accepted"
    desk.audit(200, wrong_every=10, bound=0.8)
    assert desk.report.tightened == 2
    desk.audit(500, bound=0.9)
    assert desk.follows() == ("kept", 2, False, False), "the alert ends, the threshold stays"


def test_an_audit_that_could_not_be_told_makes_nothing_look_better(desk: Desk) -> None:
    desk.put(audited_policy())
    desk.audit(500)
    known = desk.report
    for why in ("busy", "stopped"):
        desk.take(*(accepted(9_000 + n, desk.version, None, why, exchange_id=f"{why}-{n}") for n in range(100)))
    same = desk.report
    assert (same.loss_upper, same.loss_lower) == (known.loss_upper, known.loss_lower)
    for why in ("timeout", "error", "too_long", "not_comparable"):
        desk.take(*(accepted(9_000 + n, desk.version, None, why, exchange_id=f"{why}-{n}") for n in range(10)))
    worse = desk.report
    assert worse.state == "unconfirmed"
    assert worse.loss_upper > 0.05
    assert worse.loss_lower == 0.0
    assert worse.audited == 500
    assert worse.untold == {"busy": 100, "stopped": 100, "timeout": 10, "error": 10, "too_long": 10, "not_comparable": 10}
    assert worse.violations == 0


def test_the_loss_is_of_all_requests(desk: Desk) -> None:
    """Half of them are deferred, and a tenth of the accepted ones disagree: one in twenty loses."""
    desk.put(audited_policy(None))
    for number in range(1_000):
        desk.take(accepted(number, desk.version, audited=False) if number % 2 else deferred(number, desk.version))
    for number in range(1_000, 1_100):
        desk.take(accepted(number, desk.version, number % 10 != 0), deferred(-number, desk.version, number % 5 == 0))
    found = desk.report
    assert found.loss == pytest.approx(0.05, abs=0.003)
    assert (found.requests, found.deferred_share) == (1_200, 0.5)
    assert (found.audited, found.disagreed, found.deferred_audited, found.deferred_agreed) == (100, 10, 100, 20)


def test_what_was_served_with_low_confidence_was_never_promised(desk: Desk) -> None:
    desk.put(audited_policy())
    low = deferred(1, desk.version, backend="small")
    assert low.findings is not None
    desk.take(msgspec.structs.replace(low, findings=msgspec.structs.replace(low.findings, low_confidence=True)))
    desk.take(
        deferred(2, desk.version, backend="", code=503), deferred(3, desk.version, code=502), deferred(4, desk.version, findings=None)
    )
    assert (desk.report.requests, desk.report.low_confidence) == (1, 1)


def test_records_of_other_routes_and_policies_do_not_count(desk: Desk) -> None:
    desk.put(audited_policy())
    desk.take(accepted(1, "another", False), accepted(2, desk.version, False, route="other"), RECORD)
    assert (desk.report.requests, desk.report.audited) == (0, 0)


def test_a_reload_that_leaves_the_cascade_as_it_is_changes_nothing(desk: Desk) -> None:
    desk.put(audited_policy(on_violation="disable"))
    first = desk.version
    desk.audit(200, wrong_every=5)
    assert desk.report.disabled
    desk.put(audited_policy(on_violation="disable", accepted_percent=50))
    assert desk.version != first
    assert desk.report.disabled
    assert desk.report.versions == {first: (2.0, 2.0), desk.version: (50.0, 2.0)}
    for percent in range(1, 30):
        desk.put(audited_policy(on_violation="disable", accepted_percent=percent))
    assert len(desk.report.versions) == VERSIONS_MAX


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"on_violation": "alert"},
        {"on_violation": "disable", "agree": "label"},
        {"calibration": None, "agree": "exact"},
    ],
)
def test_a_cascade_that_is_changed_begins_anew(desk: Desk, other: dict[str, Any]) -> None:
    desk.put(audited_policy(on_violation="disable"))
    desk.audit(200, wrong_every=5)
    desk.now = 5_000.0
    desk.put(audited_policy(**({"on_violation": "disable"} | other if "calibration" not in other else other)))
    found = desk.report
    assert (found.requests, found.audited, found.violations, found.disabled, found.since) == (0, 0, 0, False, 5_000.0)
    assert desk.ledgers.overlay() == ()


def test_what_an_audit_has_done_can_be_undone(desk: Desk) -> None:
    desk.put(audited_policy(on_violation="disable"))
    desk.audit(200, wrong_every=5)
    assert desk.report.disabled
    assert desk.ledgers.restart("chat")
    assert desk.follows() == ("unconfirmed", 0, False, False)
    desk.audit(1)
    assert desk.report.requests == 1
    assert not desk.ledgers.restart("nowhere")


def test_without_a_calibration_the_loss_is_measured_and_nothing_was_promised(desk: Desk) -> None:
    desk.put(audited_policy(None))
    desk.audit(500, wrong_every=10, bound=-0.5)
    assert (desk.report.state, desk.report.epsilon, desk.report.violations) == ("no_promise", None, 0)
    assert desk.report.loss_lower > 0.05
    assert violation(desk.report) is None


async def test_a_restarted_controller_goes_on(desk: Desk, tmp_path: Path) -> None:
    put = audited_policy(on_violation="tighten")
    desk.put(put)
    desk.audit(200, wrong_every=10)
    before = desk.report
    assert before.tightened == 1
    await desk.ledgers.save()
    assert (tmp_path / "audits.msgpack").stat().st_mode & 0o777 == 0o600
    again = Desk(tmp_path)
    assert again.ledgers.overlay() == (CascadeState("chat", 1, False),), "before the first policy: workers must not be told otherwise"
    again.put(put)
    assert again.report == before
    repeated = accepted(desk.number, desk.version, False)
    again.take(repeated)
    assert again.report == before, "sent again, since the controller before had not acknowledged it"
    again.take(accepted(desk.number + 1, desk.version))
    assert again.report.requests == before.requests + 1


async def test_a_state_that_cannot_be_read_or_written_is_told_and_stops_nothing(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audits.msgpack").write_bytes(b"\xc1")
    other = Desk(tmp_path)
    assert "ledgers begin anew" in caplog.text
    other.put(audited_policy())
    (tmp_path / "audits.msgpack").unlink()
    (tmp_path / "audits.msgpack").mkdir()
    await other.ledgers.save()
    await other.ledgers.save()
    assert caplog.text.count("cannot be saved") == 1


def test_what_is_remembered_of_repeated_records_is_bounded(desk: Desk) -> None:
    desk.put(audited_policy())
    desk.audit(SEEN_MAX + 10)
    assert len(desk.ledgers._seen) == SEEN_MAX


def test_the_saving_is_that_of_its_definition(desk: Desk) -> None:
    """90 accepted for 1 each and 10 deferred for 1 + 10, where the last stage alone costs 10: 200 instead of 1,000."""
    desk.put(audited_policy())
    assert (desk.report.cost, desk.report.no_cost) == (None, "no requests yet")
    desk.take(*(accepted(number, desk.version, audited=number < 5) for number in range(90)))
    desk.take(*(deferred(number, desk.version) for number in range(100, 110)))
    cost = desk.report.cost
    assert cost is not None
    assert (cost.spent, cost.all_to_last, cost.audits, cost.currency) == (200.0, 1_000.0, 50.0, "USD")
    assert cost.saving == pytest.approx(0.8)


def test_without_prices_there_is_no_saving(desk: Desk) -> None:
    desk.put(audited_policy())
    free = (call("small", None, currency=None),)
    desk.take(accepted(1, desk.version, audited=False, calls=free))
    assert desk.report.no_cost == "no backend has a price"
    desk.take(accepted(2, desk.version, audited=False, calls=(call("small", 1.0),)))
    assert desk.report.no_cost == "what the last stage costs is not known yet"
    desk.take(deferred(3, desk.version, calls=(call("small", 1.0), call("big", 2.0, currency="EUR"))))
    assert desk.report.no_cost == "prices in several currencies: USD, EUR"


def test_gauges_are_of_audited_cascades(desk: Desk) -> None:
    desk.put(audited_policy())
    desk.audit(10)
    found = gauges(reports(desk.ledgers.look()))
    assert found["headgate_audit_promise"] == {("chat", "unconfirmed"): 1.0}
    assert found["headgate_audit_loss"]["chat", "epsilon"] == 0.01
    assert {bound for _, bound in found["headgate_audit_loss"]} == {"lower", "estimate", "upper", "epsilon"}
    silent = [msgspec.structs.replace(each, state="not_audited") for each in reports(desk.ledgers.look())]
    assert gauges(silent) == {"headgate_audit_loss": {}, "headgate_audit_promise": {}, "headgate_audit_tightened": {}}


def test_what_several_stages_promise_adds_up() -> None:
    stages: list[dict[str, Any]] = [
        {"backend": "small", "hold": {"tokens": 24}, "defer_when": {"calibration": "calibrations/support.json"}}
    ]
    made = loaded(
        policy(
            backends=[backend("small", evidence="logprobs"), backend("mid"), backend("big")],
            routes=[{"name": "chat", "matches": [{"models": ["m"]}], "cascade": {"stages": [*stages, {"backend": "mid"}], "last": "big"}}],
        )
    )
    found = promise(made.policy.routes[0], made.policy, made.files)
    assert (found.stages, found.last, found.epsilon, found.audited) == (("small", "mid"), ("big",), 0.01, False)
    assert not found.stale("small", THRESHOLD, 0)
    assert found.stale("small", THRESHOLD, 1)
    assert not found.stale("small", 0.123, 1), "another rule's bound"
    assert not found.stale("mid", None, 1)
    desk = report("chat", found, next(iter(_ledgers(made).look().values()))[1])
    assert desk.state == "not_audited"


def _ledgers(made: Loaded) -> Ledgers:
    ledgers = Ledgers("/nowhere")
    ledgers.in_force(made.policy, made.version, made.files)
    return ledgers


def test_a_route_without_a_cascade_has_no_promise() -> None:
    made = loaded(policy())
    with pytest.raises(ValueError, match="no cascade"):
        promise(made.policy.routes[0], made.policy, made.files)
