"""The generated text: the same each time, and never trained on what is asked in an evaluation."""

from itertools import islice

import pytest

from gateway.embedded import corpus, general, tickets


@pytest.mark.parametrize("source", [corpus.specialist, corpus.generalist, corpus.queues])
def test_a_seed_is_a_text(source) -> None:
    assert list(islice(source(5), 50)) == list(islice(source(5), 50))
    assert list(islice(source(5), 50)) != list(islice(source(6), 50))


@pytest.mark.parametrize("source", [corpus.specialist, corpus.generalist])
def test_no_evaluation_prompt_is_trained_on(source) -> None:
    trained = {example.prompt for example in islice(source(11), 20_000)}
    asked = {example.prompt for task in ("tickets", "tickets_mixed") for example in corpus.evaluation(task, 100)}
    assert asked.isdisjoint(trained)


def test_held_out_sums_are_in_no_training_text() -> None:
    trained = {example.prompt for example in islice(corpus.generalist(11), 20_000) if example.task == "arithmetic"}
    asked = [example.prompt for example in corpus.evaluation("arithmetic", 20)]
    assert len(asked) == 20
    assert trained.isdisjoint(asked)


def test_the_last_paraphrases_are_in_no_training_text() -> None:
    last = tickets.PROBLEMS["account"].turned[-tickets.HELD_OUT :]
    trained = " ".join(example.prompt.lower() for source in (corpus.specialist, corpus.generalist) for example in islice(source(3), 5_000))
    assert not [problem for problem in last if problem.lower() in trained and "{" not in problem]


def test_every_label_has_problems_a_reply_and_a_queue() -> None:
    assert set(tickets.PROBLEMS) == set(tickets.REPLIES) == set(corpus.QUEUES) == set(tickets.LABELS)
    assert {len(problems.turned) for problems in tickets.PROBLEMS.values()} == {15}


def test_every_task_is_trained() -> None:
    tasks = {example.task for example in islice(corpus.generalist(1), 3_000)}
    assert tasks == {*general.TASKS, "tickets", "replies", "json"}


def test_evaluation_ends_in_a_small_world() -> None:
    assert 10 < len(corpus.evaluation("capitals", 10_000)) < 10_000
