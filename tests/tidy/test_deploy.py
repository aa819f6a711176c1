"""What deploy/ ships is right: policies, alert rules, container."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli.main import main
from gateway.cli.policy_file import load_file
from gateway.control.alerts import RULES
from gateway.telemetry.catalog import CATALOG
from policies.scores import UNAVAILABLE

from .sources import ROOT, named

DEPLOY = ROOT / "deploy"
EXAMPLES = sorted((DEPLOY / "examples").iterdir())
NAMES = {"one-vllm", "ollama-laptop", "failover", "multi-tenant-lora"}


def test_all_examples_are_there() -> None:
    assert {path.name for path in EXAMPLES} >= NAMES


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_example_is_right_and_says_what_it_is_for(
    example: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (example / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"\$\{env:(\w+)\}", (example / "policy.yaml").read_text(encoding="utf-8")):
        monkeypatch.setenv(name, "http://127.0.0.1/" if name.endswith("URL") else "secret")
        assert name in readme, f"the README does not say that {name} must be set"
    assert main(["check", str(example / "policy.yaml")]) == 0
    seen = capsys.readouterr()
    assert seen.err == "", "an example without warnings"
    assert "headgate serve" in readme


def test_the_keys_of_the_examples_are_those_their_readme_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example's key works as it stands, and only there: it is in the open."""
    readme = (DEPLOY / "examples" / "multi-tenant-lora" / "README.md").read_text(encoding="utf-8")
    given = {hashlib.sha256(key.encode()).hexdigest() for key in re.findall(r"hg-[\w-]+", readme)}
    policy = load_file(str(DEPLOY / "examples" / "multi-tenant-lora" / "policy.yaml")).policy
    assert {key.sha256 for key in policy.keys} == given


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_alert_uses_metrics_that_exist_and_is_in_the_manual(rule: dict[str, Any]) -> None:
    exported = {metric.name for metric in CATALOG}
    exported |= {f"{metric.name}_{part}" for metric in CATALOG if metric.kind == "histogram" for part in ("bucket", "sum", "count")}
    used = set(re.findall(r"headgate_\w+", rule["expr"]))
    assert used
    assert used <= exported
    labels = {label for metric in CATALOG if any(name.startswith(metric.name) for name in used) for label in (*metric.labels, "le")}
    asked = {label for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in re.split(r",\s*", group)}
    assert asked <= labels
    assert {"summary", "runbook"} <= set(rule["annotations"])
    manual = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    assert f"### {rule['alert']}\n" in manual
    assert rule["annotations"]["runbook"].endswith(f"docs/operating.md#{rule['alert'].lower()}")


def test_somebody_is_woken_when_live_replies_bring_no_evidence() -> None:
    """POLICY.md: evidence that is not what the policy says becomes `unavailable`, with an alert. The probe sees but one short prompt."""
    [rule] = [rule for rule in rules() if "headgate_score_status_total" in rule["expr"]]
    told = set(re.findall(r'status="(\w+)"', rule["expr"]))
    assert told == {UNAVAILABLE.status}
    assert rule["labels"]["severity"] == "page"


@pytest.mark.parametrize("name", RULES)
def test_what_headgate_itself_alerts_of_is_in_the_manual(name: str) -> None:
    assert f"### {name}\n" in (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")


def test_the_container_is_slim_and_not_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    assert "torch" not in text


def test_the_compose_file_names_what_is_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source
