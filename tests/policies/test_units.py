import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("400ms", 0.4), ("5s", 5), ("10m", 600), ("72h", 259_200), ("7d", 604_800), ("1.5h", 5400), ("0s", 0), ("100ms", 0.1)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "1m30s", "5S", "5us", "1e3s", "٣s", "5s\n", "1:30"])
def test_what_is_no_duration(text: str) -> None:
    assert units.duration(text) is None


@pytest.mark.parametrize(
    ("text", "count"), [("32MiB", 33_554_432), ("5GiB", 5 * 1024**3), ("64KB", 64_000), ("0B", 0), ("1.5MiB", 1_572_864), ("0.5KB", 500)]
)
def test_sizes(text: str, count: int) -> None:
    assert units.size(text) == count


@pytest.mark.parametrize("text", ["", "5", "MiB", "5 MiB", "-5B", "5mb", "0.1B", "1.0001KB", "5MiB\n"])
def test_what_is_no_size(text: str) -> None:
    assert units.size(text) is None


@given(st.integers(min_value=0, max_value=10**9))
def test_a_shown_duration_is_read_back(milliseconds: int) -> None:
    shown = units.show_duration(milliseconds / 1000)
    assert units.duration(shown) == pytest.approx(milliseconds / 1000, abs=1e-6)


@given(st.integers(min_value=0, max_value=10**12 - 1))
def test_a_shown_size_is_read_back(count: int) -> None:
    assert units.size(units.show_size(count)) == count
