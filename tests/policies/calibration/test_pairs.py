"""Lines of pairs: what they become, and how bad ones are named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.calibrated import CalibrationError
from policies.calibration.pairs import read

GOOD = b'{"features": {"x": 0.5}, "quality": {"small": 0, "large": 1}}'


def test_evidence_becomes_features_beside_the_given_ones() -> None:
    line = (
        b'{"evidence": {"logprobs": [-0.5, -1.5]}, "features": {"x": 2}, "quality": {"small": 0.25, "large": 1}, "segment": "a", "id": 7}'
    )
    pairs = read([line, b"", line], "pairs.jsonl")
    assert len(pairs) == 2
    assert pairs.features["mean_logprob"].tolist() == [-1.0, -1.0]
    assert pairs.features["x"].tolist() == [2.0, 2.0]
    assert pairs.loss.tolist() == [0.75, 0.75]
    assert not pairs.binary
    assert pairs.row(0)["segment"] == "a"


def test_a_prefix_is_all_that_is_looked_at() -> None:
    line = b'{"evidence": {"logprobs": [-0.5, -1.5, -9]}, "quality": {"small": 0, "large": 1}}'
    assert read([line], "p", prefix_tokens=2).features["mean_logprob"].tolist() == [-1.0]


def test_what_a_line_lacks_is_not_a_number() -> None:
    line = b'{"features": {"y": 1}, "quality": {"small": 1, "large": 1}}'
    pairs = read([GOOD, line], "p")
    assert np.isnan(pairs.features["x"]).tolist() == [False, True]
    assert pairs.binary
    assert pairs.row(1) == {"y": 1.0}


def test_minus_infinity_has_features_and_broken_evidence_has_none() -> None:
    lines = [b'{"evidence": {"logprobs": [%s]}, "quality": {"small": 1, "large": 1}}' % each for each in (b"-9999.0", b"null")]
    column = read(lines, "p").features["mean_logprob"].tolist()
    assert column[0] == -9999.0
    assert math.isnan(column[1])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "p.jsonl:2"),
        (b"\xff", "p.jsonl:2"),
        (b"[]", "object"),
        (b'{"features": {"x": 1}}', "quality"),
        (b'{"quality": {"small": 2, "large": 1}}', "quality.small must be from 0 to 1, not 2"),
        (b'{"quality": {"small": 0, "large": -1}}', "quality.large"),
        (b'{"features": {"x": "high"}, "quality": {"small": 0, "large": 1}}', "features"),
        (b'{"features": {"segment": 1}, "quality": {"small": 0, "large": 1}}', "a field of its own"),
        (b'{"features": {"tokens": 1}, "evidence": {"logprobs": [-1]}, "quality": {"small": 0, "large": 1}}', "one or the other"),
        (b'{"evidence": {"logprobs": [-1, NaN]}, "quality": {"small": 0, "large": 1}}', "are no JSON: write null for a log-probability"),
        (b'{"features": {"x": -Infinity}, "quality": {"small": 0, "large": 1}}', "NaN and Infinity are no JSON"),
        (b'{"evidence": {"logprobs": [-1], "top_logprobs": []}, "quality": {"small": 0, "large": 1}}', "one list a token"),
    ],
)
def test_a_bad_line_is_named_by_its_number(line: bytes, said: str) -> None:
    with pytest.raises(CalibrationError, match=said) as refused:
        read([GOOD, line, GOOD], "p.jsonl")
    assert str(refused.value).startswith("p.jsonl:2: ")


def test_every_bad_line_is_named_up_to_ten() -> None:
    with pytest.raises(CalibrationError) as refused:
        read([b"{"] * 30, "p")
    assert len(str(refused.value).splitlines()) == 10


def test_nothing_is_not_enough() -> None:
    with pytest.raises(CalibrationError, match="no lines"):
        read([b"", b"  \n"], "p")
