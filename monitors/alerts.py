"""Alerts as values: what is wrong now goes in with the time, what has changed comes out. No clock and no I/O.

inactive -> pending      the condition holds
pending  -> firing       it has held for `for_s`          (told)
pending  -> inactive     it ended before that
firing   -> resolved     it has not held for `clear_s`    (told)
resolved -> inactive     after `remember_s`, so that people can see what was
resolved -> pending      the condition holds again
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

State: TypeAlias = Literal["inactive", "pending", "firing", "resolved"]

SUBJECTS_MAX = 1_000
"""Alerts kept at once; more of them are a fault in whatever names the subjects."""


class Rule(msgspec.Struct, frozen=True):
    """When a condition becomes an alert."""

    name: str
    for_s: float = 0.0
    clear_s: float = 0.0
    remember_s: float = 3600.0


class Alert(msgspec.Struct, frozen=True):
    """One condition of one subject (a replica, a worker, "" for the gateway)."""

    name: str
    subject: str
    state: State = "inactive"
    since: float = 0.0
    """Of this state."""
    message: str = ""
    """The last one that was true."""
    held: float = 0.0
    """When the condition last held."""


def step(alert: Alert, rule: Rule, now: float, condition: str | None) -> Alert:
    """The alert after one look. `condition` says what is wrong, None: nothing."""
    if condition is not None:
        return _holds(msgspec.structs.replace(alert, message=condition, held=now), rule, now)
    match alert.state:
        case "pending":
            return _enter(alert, "inactive", now)
        case "firing" if now - alert.held >= rule.clear_s:
            return _enter(alert, "resolved", now)
        case "resolved" if now - alert.since >= rule.remember_s:
            return _enter(alert, "inactive", now)
    return alert


def _holds(alert: Alert, rule: Rule, now: float) -> Alert:
    if alert.state in ("inactive", "resolved"):
        alert = _enter(alert, "pending", now)
    if alert.state == "pending" and now - alert.since >= rule.for_s:
        alert = _enter(alert, "firing", now)
    return alert


def _enter(alert: Alert, state: State, now: float) -> Alert:
    return msgspec.structs.replace(alert, state=state, since=now)


Key: TypeAlias = tuple[str, str]
"""(name of the rule, subject)."""


class Board(msgspec.Struct, frozen=True):
    """Every alert that is not inactive."""

    alerts: Mapping[Key, Alert] = {}

    def evaluate(self, rules: Mapping[str, Rule], conditions: Mapping[Key, str], now: float) -> tuple[Board, tuple[Alert, ...]]:
        """The board after one look at all conditions, and the alerts that began to fire or were resolved by it."""
        alerts: dict[Key, Alert] = {}
        told: list[Alert] = []
        # Those that stand come first, so that a flood of new subjects cannot push a firing alert out.
        for key in (*self.alerts, *(key for key in conditions if key not in self.alerts)):
            name, subject = key
            before = self.alerts.get(key) or Alert(name, subject)
            after = step(before, rules[name], now, conditions.get(key))
            if after.state == "inactive" or len(alerts) >= SUBJECTS_MAX:
                continue
            alerts[key] = after
            if after.state != before.state and after.state in ("firing", "resolved"):
                told.append(after)
        return Board(alerts), tuple(told)

    def firing(self) -> tuple[Alert, ...]:
        """In the order they came."""
        return tuple(alert for alert in self.alerts.values() if alert.state == "firing")
