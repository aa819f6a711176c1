"""The numpy transformer against the logits that the trainer's torch computed."""

from pathlib import Path

import numpy as np
import pytest

from gateway.embedded.engine import Library
from gateway.embedded.model import Cache

REFERENCE = np.load(Path(__file__).with_name("reference.npz"))
CASES = sorted(key.removesuffix(".ids") for key in REFERENCE.files if key.endswith(".ids"))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_torch(library: Library, case: str) -> None:
    model = library.models[case.rsplit(".", 1)[0]]
    ids = REFERENCE[f"{case}.ids"].tolist()
    logits = model.logits(model.hidden(ids, Cache(model.config)))
    np.testing.assert_allclose(logits[-4:], REFERENCE[f"{case}.logits"], atol=1e-3)


def test_every_shipped_model_has_a_reference(library: Library) -> None:
    assert {case.rsplit(".", 1)[0] for case in CASES} == set(library.models) == {"specialist", "specialist-queues", "generalist"}


@pytest.mark.parametrize("name", ["specialist", "generalist"])
def test_token_by_token_is_all_at_once(library: Library, name: str) -> None:
    model = library.models[name]
    ids = REFERENCE[f"{name}.0.ids"].tolist()
    at_once = model.hidden(ids, Cache(model.config))
    cache = Cache(model.config, capacity=1)
    one_by_one = np.concatenate([model.hidden([id_], cache) for id_ in ids])
    np.testing.assert_allclose(one_by_one, at_once, atol=1e-4)
    cache = Cache(model.config)
    parts = np.concatenate([model.hidden(ids[:5], cache), model.hidden(ids[5:], cache)])
    np.testing.assert_allclose(parts, at_once, atol=1e-4)


def test_a_copied_cache_goes_its_own_way(library: Library) -> None:
    model = library.models["specialist"]
    cache = Cache(model.config)
    model.hidden([5, 6, 7], cache)
    other = cache.copy()
    expected = model.hidden([8], cache.copy())
    model.hidden([9, 10], other)
    np.testing.assert_array_equal(model.hidden([8], cache), expected)
