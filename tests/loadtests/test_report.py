"""Rounds become medians, ratios and verdicts; what was not measured is not called met."""

from __future__ import annotations

import re

from loadtests import report
from loadtests.measure import Round
from loadtests.peers.install import PACKAGES
from loadtests.scenarios import BY_NAME, DEFAULT
from loadtests.subjects import HERE


def results() -> report.Results:
    made = report.Results({})
    for ours, theirs in ((40.0, 20.0), (66.0, 22.0), (30.0, 20.0)):
        made.add("request-32", "direct", Round({"latency_p50_us": 100.0}))
        made.add("request-32", "headgate", Round({"us": ours, "latency_p50_us": 180.0}))
        made.add("request-32", "nginx", Round({"us": theirs, "latency_p50_us": 150.0}))
    return made


def test_ratios_are_of_rounds_measured_side_by_side() -> None:
    row = results().summary()["request-32"]["headgate"]
    assert row["us"] == {"median": 40.0, "min": 30.0, "max": 66.0, "to_nginx": 2.0}
    assert row["added_latency_p50_us"]["median"] == 80.0
    assert row["added_latency_p50_us"]["to_nginx"] == 1.6


def test_a_void_round_is_told_and_not_counted() -> None:
    made = results()
    made.add("request-32", "headgate", Round({"us": 1.0}, void="the backend counted more"))
    assert made.summary()["request-32"]["headgate"]["us"]["min"] == 30.0
    assert made.void == ["headgate: request-32: the backend counted more"]


def test_goals_are_met_missed_or_not_measured() -> None:
    made = results()
    verdicts = {verdict.name: verdict for verdict in report.check(made)}
    assert not verdicts["CPU a request, 32 at once, x nginx"].missed
    assert "not measured" in verdicts["CPU a request, 32 at once, x litellm"].line()
    for _ in range(4):
        made.add("request-32", "headgate", Round({"us": 90.0}))
        made.add("request-32", "nginx", Round({"us": 20.0}))
    missed = next(verdict for verdict in report.check(made) if verdict.name == "CPU a request, 32 at once, x nginx")
    assert missed.missed
    assert missed.line().startswith("MISSED")


def test_microseconds_are_shown_and_do_not_fail_a_run() -> None:
    made = report.Results({})
    made.add("request-32", "headgate", Round({"us": 1e6}))
    assert not any(verdict.missed for verdict in report.check(made))


def test_every_goal_names_what_can_be_measured() -> None:
    for goal in report.goals():
        assert goal.scenario in BY_NAME
        assert set(goal.ratios) <= set(PACKAGES)
        assert goal.us_at_most is not None or goal.at_most is not None or goal.ratios
    assert set(DEFAULT) <= set(BY_NAME)


def test_the_committed_configurations_have_only_words_that_are_filled_in() -> None:
    known = {"dir", "mock", "port", "spare", "key", "guard"}
    files = [HERE / "headgate.yaml", *(each for each in (HERE / "peers").iterdir() if each.suffix in (".conf", ".yaml", ".args"))]
    assert len(files) == 1 + len(PACKAGES)
    for file in files:
        assert set(re.findall(r"@(\w+)@", file.read_text())) - {"words"} <= known, file


def test_what_a_scenario_costs_more_is_of_the_same_round() -> None:
    made = report.Results({})
    for base, ruled in ((10.0, 12.0), (20.0, 21.0), (15.0, 18.0)):
        made.add("stream-256", "headgate", Round({"us": base}))
        made.add("rule", "headgate", Round({"us": ruled}))
    made.add("stream-256", "headgate", Round({"us": 1.0}, void="errors"))
    made.add("rule", "headgate", Round({"us": 99.0}))
    goal = next(goal for goal in report.goals() if goal.scenario == "rule")
    assert report.figures(made, goal) == [2.0, 1.0, 3.0]
    verdicts = {verdict.name: verdict.line() for verdict in report.check(made)}
    assert verdicts["a confidence rule, more CPU a chunk, us"].startswith("shown, met")
    assert verdicts["a guard, more CPU a request, us"].startswith("not measured")
