"""Sampling, stop strings, scores: on a real model, without a server."""

from typing import Any

import numpy as np
import pytest

from gateway.embedded import chatml
from gateway.embedded.engine import Library, choices
from gateway.embedded.generation import MASKED, Sampling, Step, Stopper

PROMPT = [{"role": "user", "content": "Write a reply: I was charged twice for the lamp."}]


def steps(library: Library, **fields: Any) -> list[Step]:
    sampling = Sampling(**{"max_tokens": 64, "temperature": 0.0, **fields})
    model = library.models["specialist"]
    return [step for _, step in choices(library, model, chatml.prompt(library.tokenizer, PROMPT), sampling, (None,))]


def text(found: list[Step]) -> str:
    return "".join(step.text for step in found)


def test_greedy_is_the_same_each_time_and_ends_with_the_end_token(library: Library) -> None:
    found = steps(library)
    assert text(found) == text(steps(library))
    assert found[-1].finish == "stop"
    assert len(found) > 10
    assert all(step.finish is None for step in found[:-1])


def test_length_cuts_the_same_text(library: Library) -> None:
    cut = steps(library, max_tokens=5)
    assert len(cut) == 5
    assert cut[-1].finish == "length"
    assert text(steps(library)).startswith(text(cut))


def test_a_seed_repeats_and_another_differs(library: Library) -> None:
    hot = {"temperature": 1.8, "max_tokens": 30}
    assert text(steps(library, seed=4, **hot)) == text(steps(library, seed=4, **hot))
    assert len({text(steps(library, seed=seed, **hot)) for seed in range(8)}) > 1


def test_a_tiny_top_p_and_top_k_1_are_greedy(library: Library) -> None:
    greedy = text(steps(library))
    assert text(steps(library, temperature=1.5, top_p=1e-9)) == greedy
    assert text(steps(library, temperature=1.5, top_k=1)) == greedy


def test_a_stop_string_ends_the_text_before_it(library: Library) -> None:
    whole = text(steps(library))
    stop = whole[12:20]
    found = steps(library, stop=(stop,))
    assert text(found) == whole[: whole.index(stop)]
    assert found[-1].finish == "stop"


def test_a_stop_string_that_never_comes_loses_nothing(library: Library) -> None:
    whole = text(steps(library))
    assert text(steps(library, stop=(whole[-1] + "never",))) == whole


@pytest.mark.parametrize("pieces", [["abc", "END", "x"], ["abcE", "N", "Dx"], ["abcEND"], ["a", "b", "c", "E", "N", "D"]])
def test_a_stop_string_is_found_across_tokens(pieces: list[str]) -> None:
    stopper, said = Stopper(["END", "never"]), ""
    for piece in pieces:
        more, stopped = stopper.push(piece)
        said += more
        if stopped:
            break
    assert (said, stopped) == ("abc", True)


def test_what_could_have_been_a_stop_string_is_let_go() -> None:
    stopper = Stopper(["ENDE"])
    assert stopper.push("xEND") == ("x", False)
    assert stopper.push("y") == ("ENDy", False)
    assert stopper.push("E") == ("", False)
    assert stopper.flush() == "E"


def test_log_probabilities_of_the_whole_vocabulary_sum_to_1(library: Library) -> None:
    for step in steps(library, scored=1024):
        assert np.exp([score.value for score in step.alternatives]).sum() == pytest.approx(1, abs=1e-6)
        assert step.score == step.alternatives[0]


def test_logits_less_their_logsumexp_are_the_log_probabilities(library: Library) -> None:
    raw, normal = steps(library, scored=1024, raw_logits=True), steps(library, scored=1024)
    assert max(score.value for step in raw for score in step.alternatives) > 1, "logits, not log-probabilities"
    for logits, logprobs in zip(raw, normal, strict=True):
        values = np.array([score.value for score in logits.alternatives])
        total = values.max() + np.log(np.exp(values - values.max()).sum())
        assert [score.id for score in logits.alternatives] == [score.id for score in logprobs.alternatives]
        np.testing.assert_allclose(values - total, [score.value for score in logprobs.alternatives], atol=1e-6)


def test_scores_do_not_depend_on_temperature(library: Library) -> None:
    assert steps(library, scored=2, max_tokens=1)[0].alternatives == steps(library, scored=2, max_tokens=1, temperature=2.0)[0].alternatives


def test_bias_and_penalties_change_what_is_chosen(library: Library) -> None:
    first = steps(library, max_tokens=1)[0].id
    assert steps(library, max_tokens=1, logit_bias={first: -100.0})[0].id != first
    assert steps(library, max_tokens=1, logit_bias={7: 100.0})[0].id == 7
    plain, penalised = steps(library, ignore_eos=True), steps(library, ignore_eos=True, presence_penalty=2.0, frequency_penalty=2.0)
    assert len({step.id for step in penalised}) > len({step.id for step in plain})


def test_ignore_eos_goes_on_to_the_limit(library: Library) -> None:
    found = steps(library, ignore_eos=True, max_tokens=120)
    assert (len(found), found[-1].finish) == (120, "length")


def test_minus_infinity_has_a_number(library: Library) -> None:
    assert MASKED == -9999.0
