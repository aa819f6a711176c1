from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitors.alerts import SUBJECTS_MAX, Alert, Board, Rule, step

RULE = Rule("r", for_s=10.0, clear_s=20.0, remember_s=100.0)


def run(rule: Rule, *looks: tuple[float, bool]) -> list[tuple[float, str]]:
    """(time, state) of every change."""
    alert = Alert(rule.name, "s")
    changes: list[tuple[float, str]] = []
    for now, holds in looks:
        before, alert = alert.state, step(alert, rule, now, "it is so" if holds else None)
        if alert.state != before:
            changes.append((now, alert.state))
    return changes


def test_the_whole_way() -> None:
    looks = [(0.0, True), (9.0, True), (10.0, True), (11.0, False), (29.0, False), (31.0, False), (130.0, False), (131.0, False)]
    assert run(RULE, *looks) == [(0.0, "pending"), (10.0, "firing"), (31.0, "resolved"), (131.0, "inactive")]


def test_what_ends_before_its_time_never_fires() -> None:
    assert run(RULE, (0.0, True), (5.0, False), (6.0, True), (15.0, True)) == [(0.0, "pending"), (5.0, "inactive"), (6.0, "pending")]


def test_a_condition_that_flaps_does_not_resolve() -> None:
    assert run(RULE, *[(float(t), t < 12 or t % 15 == 0) for t in range(60)]) == [(0.0, "pending"), (10.0, "firing")]


def test_without_delays_it_fires_and_is_resolved_at_once_and_fires_again() -> None:
    looks = [(0.0, True), (1.0, False), (2.0, True)]
    assert run(Rule("r"), *looks) == [(0.0, "firing"), (1.0, "resolved"), (2.0, "firing")]


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=80))
def test_an_alert_fires_only_after_its_time_and_every_resolution_had_a_firing(steps: list[tuple[float, bool]]) -> None:
    now = 0.0
    held_since: float | None = None
    told: list[str] = []
    board = Board()
    for pause, holds in steps:
        now += pause
        held_since = (held_since if held_since is not None else now) if holds else None
        board, changed = board.evaluate({"r": RULE}, {("r", "s"): "so"} if holds else {}, now)
        for alert in changed:
            told.append(alert.state)
            if alert.state == "firing":
                assert held_since is not None
                assert now - held_since >= RULE.for_s
                assert alert.message == "so"
    assert told == ["firing", "resolved"] * (len(told) // 2) + ["firing"] * (len(told) % 2)


def test_a_flood_of_subjects_is_bounded_and_pushes_no_firing_alert_out() -> None:
    rules = {"r": Rule("r")}
    board, _ = Board().evaluate(rules, {("r", "first"): "x"}, 0.0)
    board, told = board.evaluate(rules, {("r", str(n)): "x" for n in range(2 * SUBJECTS_MAX)} | {("r", "first"): "x"}, 1.0)
    assert len(board.alerts) == SUBJECTS_MAX
    assert len(told) == SUBJECTS_MAX - 1
    assert board.firing()[0].subject == "first"
