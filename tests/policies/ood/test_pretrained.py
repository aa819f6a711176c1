"""Detectors with a pretrained table, and with an encoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from policies.ood import network
from policies.ood.artifact import dumps, loads
from policies.ood.encoded import ENCODED, distances, encoded_scores
from policies.ood.encoder import Encoder, EncoderError
from policies.ood.energy import MEANING, SCORES, Scorer, from_sum, from_sums
from policies.ood.fit import Example, Fitted, fit
from policies.ood.mixing import auroc
from policies.ood.network import train
from policies.ood.table import table
from policies.ood.train import count, sums

from .generated import examples, outsiders, small
from .tiny import VOCABULARY, tensors, weights


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "STEPS_MIN", 250)
        yield


@pytest.fixture(scope="module")
def with_table() -> Fitted:
    return fit(examples(320, 1), examples(450, 2), table=table(weights(), VOCABULARY))


@pytest.fixture(scope="module")
def with_both() -> Fitted:
    apart = [Example(text) for text in outsiders(40, 5)]
    return fit(
        examples(320, 1), examples(450, 2), table=table(weights(), VOCABULARY), encoder=Encoder(weights(), VOCABULARY), outliers=apart
    )


def test_a_table_adds_a_score(with_table: Fitted) -> None:
    head = with_table.detector.head
    assert head.scores == (*SCORES, MEANING) == with_table.detector.facts.scores == tuple(with_table.detector.facts.mix)
    assert small().detector.head.scores == SCORES
    scorer = Scorer(head)
    near, far = (
        np.stack([row for text in texts if (row := scorer.scores(text)) is not None])
        for texts in ([each.text for each in examples(200, 3)], outsiders(200, 4))
    )
    at = head.scores.index(MEANING)
    assert auroc(near[:, at], far[:, at]) > 80
    assert auroc(near @ head.mix, far @ head.mix) > 98


def test_one_text_is_judged_as_in_a_batch_with_a_table_too(with_table: Fitted) -> None:
    head, scorer = with_table.detector.head, Scorer(with_table.detector.head)
    for text in [*[each.text for each in examples(40, 3)], *outsiders(40, 4), "quasar", "İstanbul?"]:
        total = scorer._words.sum(text)
        assert total is not None
        assert from_sum(head, total).tobytes() == from_sums(head, total[None])[0].tobytes()


def test_a_word_that_no_training_text_had_is_placed_by_the_table(with_table: Fitted) -> None:
    head = with_table.detector.head
    scores = [row[-1] for text in ("quasar", "glacier") if (row := Scorer(head).scores(text)) is not None]
    assert scores[0] != scores[1]


def test_the_file_holds_the_table_and_scores_to_the_last_bit(with_table: Fitted) -> None:
    file = dumps(with_table.detector)
    read = loads(file)
    assert dumps(read) == file
    for text in [*outsiders(20, 8), "", "\ud800", "支", "pay " * 5000]:
        assert Scorer(read.head).score(text)._asdict().__repr__() == Scorer(with_table.detector.head).score(text)._asdict().__repr__()


def test_an_encoder_adds_scores_and_is_needed_then(with_both: Fitted) -> None:
    encoder = Encoder(weights(), VOCABULARY)
    head = loads(dumps(with_both.detector)).head
    assert head.scores == (*SCORES, MEANING, *ENCODED)
    assert with_both.detector.facts.encoder == encoder.fingerprint
    with pytest.raises(ValueError, match="fitted with a sentence encoder, and there is none"):
        Scorer(head)
    inside = [Scorer(head, encoder.encode).score(each.text).score for each in examples(100, 3)]
    outside = [Scorer(head, encoder.encode).score(text).score for text in outsiders(100, 4)]
    assert auroc(np.array(inside), np.array(outside)) > 95


def test_a_scorer_and_the_batch_agree(with_both: Fitted) -> None:
    encoder = Encoder(weights(), VOCABULARY)
    texts = [each.text for each in examples(20, 8)] + outsiders(20, 9)
    head = with_both.detector.head
    counts = count(texts, VOCABULARY.split("\n"), encoder)
    scorer = Scorer(head, encoder.encode)
    one_by_one = np.stack([row for text in texts if (row := scorer.scores(text)) is not None])
    np.testing.assert_allclose(one_by_one, from_sums(head, sums(head, counts), counts.vectors), rtol=2e-3, atol=2e-3)


def test_relative_distance_by_hand() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), 50)
    vectors = (rng.standard_normal((150, 4)) * 0.1 + np.eye(4)[labels]).astype(np.float32)
    of = distances(vectors, labels, np.zeros((5, 3), np.float32))
    means = np.stack([vectors[labels == k].mean(axis=0) for k in range(3)])
    near, wide = np.linalg.inv(np.cov((vectors - means[labels]).T, bias=True)), np.linalg.inv(np.cov(vectors.T, bias=True))
    text = np.array([0.5, 0.2, 0.1, 0.7], np.float32)
    expected = min((text - mean) @ near @ (text - mean) for mean in means)
    expected -= (text - vectors.mean(axis=0)) @ wide @ (text - vectors.mean(axis=0))
    energy, distance = encoded_scores(of, text[None])[0]
    assert distance == pytest.approx(expected, rel=1e-2)
    assert energy == pytest.approx(-np.log(3), rel=1e-5)


def test_vectors_of_what_was_not_trained_on_stay() -> None:
    from scipy import sparse

    start = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    x = sparse.csr_matrix(np.array([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0]] * 20, np.float32))
    found = train(x, np.array([0, 1] * 20), start, np.random.default_rng(1))
    np.testing.assert_array_equal(found.inputs[[2, 5]], start[[2, 5]])
    assert (found.inputs[[0, 1, 3, 4]] != start[[0, 1, 3, 4]]).any(axis=1).all()


def test_a_table_that_is_none_is_refused() -> None:
    with pytest.raises(EncoderError, match="no embeddings"):
        table(weights({"x": np.zeros(3)}), VOCABULARY)
    with pytest.raises(EncoderError, match="pieces, and the vocabulary"):
        table(weights(tensors()), VOCABULARY + "\nmore")
