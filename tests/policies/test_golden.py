from collections import Counter

import pytest

from tests.policies.golden import ENVIRONMENT, FILES, FOLDER, came_to, names

WRONG_MIN, KINDS_MIN, KIND_MAX = 50, 10, 8


@pytest.mark.parametrize("name", names("wrong"))
def test_wrong_policy_is_told_exactly_this(name: str) -> None:
    assert came_to("wrong", name) == (FOLDER / "wrong" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", names("right"))
def test_right_policy_compiles_to_exactly_this(name: str) -> None:
    assert came_to("right", name) == (FOLDER / "right" / f"{name}.txt").read_text()


def test_every_wrong_policy_is_refused_and_every_right_one_taken() -> None:
    assert all(came_to("wrong", name).startswith("policy.yaml:") for name in names("wrong"))
    assert all(came_to("right", name).startswith("version ") for name in names("right"))


def test_the_wrong_policies_are_many_and_of_many_kinds() -> None:
    kinds = Counter(name.split("-")[0] for name in names("wrong"))
    assert kinds.total() >= WRONG_MIN
    assert len(kinds) >= KINDS_MIN
    assert max(kinds.values()) <= KIND_MAX


def test_every_text_belongs_to_a_policy() -> None:
    for kind in ("wrong", "right"):
        assert {path.stem for path in (FOLDER / kind).glob("*.txt")} == set(names(kind))


def test_no_text_shows_a_secret() -> None:
    secrets = {value.strip() for value in ENVIRONMENT.values()} | {
        data.decode().strip() for path, data in FILES.items() if path.startswith("keys/")
    } - {""}
    secrets |= {"hunter2", "hunter3"}
    for path in FOLDER.glob("*/*.txt"):
        text = path.read_text()
        assert not [secret for secret in secrets if secret in text], path
