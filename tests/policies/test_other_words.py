"""Words of other gateways; what a policy with some of them is told: tests/golden/policies/wrong/unknown-from-elsewhere.txt."""

from __future__ import annotations

import pytest

from policies.fields import groups, policy_shape
from policies.other_words import OTHER_WORDS, belongs


def test_every_word_leads_to_a_key_and_is_none_beside_it() -> None:
    for key, others in OTHER_WORDS.items():
        within = [{*(field.name for field in group.fields), *group.later} for _, group in groups(policy_shape())]
        assert any(key in words for words in within), key
        assert not any(key in words and words & set(others) for words in within), key


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("url", 'it belongs in backends[], as "replicas"'),  # although webhooks have a key of that name
        ("upstreams", 'it belongs in the top level, as "backends"'),
        ("body_max", "it belongs in server"),
        ("name", ""),  # so many have one
        ("priority", ""),
    ],
)
def test_a_word_in_the_wrong_place_is_told_the_right_one(name: str, said: str) -> None:
    assert belongs(name, policy_shape()) == said
