from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from policies.ood.artifact import ArtifactError, Detector, dumps, loads
from policies.ood.energy import SCORES, UNAVAILABLE, Head, Scorer
from policies.ood.features import word_columns
from policies.ood.text import guard_text, turns

from .generated import examples, outsiders, small

TEXTS = [
    "pay my invoice",
    "",
    " ",
    "\x00\x01",
    "\ud800",
    "支付我的账单",
    "ادفع فاتورتي",
    "🙂🙂",
    "a" * 5_000_000,
    "pay " * 100_000,
    "?",
    "a",
    "nothing seen",
]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return small().detector


@pytest.fixture(scope="module")
def file(detector: Detector) -> bytes:
    return dumps(detector)


def changed(file: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    with np.load(io.BytesIO(file)) as packed:
        arrays = dict(packed)
    change(arrays)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def with_facts(file: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    def edit(arrays: dict[str, Any]) -> None:
        facts = msgspec.json.decode(arrays["facts"].tobytes())
        change(facts)
        arrays["facts"] = np.frombuffer(msgspec.json.encode(facts), np.uint8)

    return changed(file, edit)


def bits(detector: Detector, texts: list[str]) -> list[str]:
    scorer = Scorer(detector.head)
    return [f"{scored.energy.hex()} {scored.score.hex()} {scored.status}" for scored in map(scorer.score, texts)]


def test_a_file_scores_as_what_was_fitted_to_the_last_bit(detector: Detector, file: bytes) -> None:
    texts = [each.text for each in examples(50, 7)] + outsiders(50, 8) + TEXTS
    read = loads(file)
    assert bits(read, texts) == bits(detector, texts)
    assert dumps(read) == file
    assert read.facts == detector.facts


def test_offline_and_live_are_the_same_to_the_last_bit(detector: Detector, file: bytes) -> None:
    """A line of a file, and a request with the same turns, by scorers that saw different traffic before."""
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "how do i pay my invoice?"}]}]
    live, offline = Scorer(loads(file).head), Scorer(detector.head)
    for text in outsiders(30, 3):
        live.score(text)
    assert live.score(guard_text(turns(messages), "last_user")) == offline.score(guard_text(turns("how do i pay my invoice?"), "last_user"))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:8]))
def test_any_text_has_a_finite_score_or_none(detector: Detector, text: str) -> None:
    scored = Scorer(detector.head).score(text)
    if text.strip():
        assert scored.status == "ok"
        assert math.isfinite(scored.score)
        assert math.isfinite(scored.energy)
    else:
        assert scored is UNAVAILABLE


def test_no_text_is_unavailable(detector: Detector) -> None:
    assert Scorer(detector.head).score(None) is UNAVAILABLE


def test_energy_is_minus_logsumexp_of_the_logits(detector: Detector) -> None:
    """By hand, with numpy's double precision, for a text of one word."""
    head = detector.head
    columns = word_columns("invoice")
    counts = {column: columns.count(column) for column in columns}
    length = math.sqrt(sum((times * float(head.idf[column])) ** 2 for column, times in counts.items()))
    logits = sum(head.weights[column, : head.classes].astype(float) for column in columns) / length + head.bias[: head.classes]
    assert Scorer(head).score("invoice").energy == pytest.approx(-math.log(np.exp(logits).sum()), rel=1e-4)
    assert SCORES[0] == "energy"


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(file: bytes, share: float) -> None:
    with pytest.raises(ArtifactError, match="truncated, damaged or not a detector"):
        loads(file[: int(len(file) * share)])


def test_a_damaged_file_is_refused(file: bytes) -> None:
    middle = len(file) // 2
    with pytest.raises(ArtifactError, match="truncated, damaged"):
        loads(file[:middle] + bytes(64) + file[middle + 64 :])


def test_what_is_not_a_detector_is_refused(file: bytes) -> None:
    with pytest.raises(ArtifactError, match="truncated, damaged or not a detector"):
        loads(b"version: 1\n")
    with pytest.raises(ArtifactError, match="says nothing of how it was fitted"):
        loads(changed(file, lambda arrays: arrays.pop("facts")))


def test_pickles_are_never_read(file: bytes) -> None:
    with pytest.raises(ArtifactError, match="not a detector"):
        loads(changed(file, lambda arrays: arrays.update(mix=np.array([{"a": 1}], object))))


@pytest.mark.parametrize("name", ["artifact", "features", "text"])
def test_another_version_is_refused(file: bytes, name: str) -> None:
    with pytest.raises(ArtifactError, match=f"of {name} version 99, and this Headgate reads \\d: fit it again"):
        loads(with_facts(file, lambda facts: facts["versions"].update({name: 99})))


def test_a_head_without_its_calibration_is_refused(file: bytes) -> None:
    with pytest.raises(ArtifactError, match="no calibration: fit it again, with held-out texts"):
        loads(changed(file, lambda arrays: arrays.pop("calibration.scores")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("idf"), "has no idf"),
        (lambda arrays: arrays.update(bias=np.zeros(3, np.float32)), "are of shape"),
        (lambda arrays: arrays.update(idf=arrays["idf"] * np.nan), "idf have values that are no numbers"),
        (lambda arrays: arrays.update({"calibration.scores": arrays["calibration.scores"][::-1]}), "calibration  is damaged"),
        (lambda arrays: arrays.update(facts=np.frombuffer(b'{"versions":', np.uint8)), "facts cannot be read"),
    ],
)
def test_parts_that_do_not_fit_are_refused(file: bytes, change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        loads(changed(file, change))


def test_a_file_that_unpacks_to_too_much_is_refused(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.ood.artifact.ARTIFACT_BYTES_MAX", 1000)
    with pytest.raises(ArtifactError, match="unpacked, more than 1000"):
        loads(file)


def test_a_head_says_how_many_classes_it_has(detector: Detector) -> None:
    assert isinstance(detector.head, Head)
    assert detector.head.classes == detector.facts.classes == 8
