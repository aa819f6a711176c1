from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.labels import UNIT_CHARS_MAX, edge_names
from tests.policies.building import decided, policy, route


def segment_value(segment: dict[str, Any], **features: Any) -> str:
    values = policy(segments=[{"name": "s"} | segment], routes=[route(segments=["s"])])
    ((name, value),) = decided(values, **features).segments
    assert name == "s"
    return value


@pytest.mark.key("segments[].from")
@pytest.mark.key("segments[].values")
@pytest.mark.key("segments[].else")
def test_a_segment_of_a_key_label_keeps_the_declared_values() -> None:
    segment = {"from": "key:tenant", "values": ["acme", "globex"]}
    assert segment_value(segment, labels={"tenant": "acme"}) == "acme"
    assert segment_value(segment, labels={"tenant": "initech"}) == "other"
    assert segment_value(segment) == "other"
    assert segment_value(segment | {"else": "rest"}) == "rest"


def test_a_segment_of_a_header() -> None:
    segment = {"from": "header:X-Lane", "values": ["1", "2"]}
    assert segment_value(segment, headers={"x-lane": "2"}) == "2"
    assert segment_value(segment, headers={"x-lane": "2; drop"}) == "other"
    assert segment_value(segment) == "other"


@pytest.mark.key("segments[].edges")
@pytest.mark.parametrize(
    ("chars", "name"), [(0, "<200"), (199, "<200"), (200, "200-999"), (999, "200-999"), (1000, ">=1000"), (10**9, ">=1000")]
)
def test_a_segment_of_the_prompts_length(chars: int, name: str) -> None:
    assert segment_value({"from": "prompt_chars", "edges": [200, 1000]}, prompt_chars=chars) == name


@given(st.sets(st.integers(min_value=1, max_value=10_000), min_size=1, max_size=20))
def test_edges_cut_into_one_more_distinct_names(edges: set[int]) -> None:
    names = edge_names(tuple(sorted(edges)))
    assert len(names) == len(set(names)) == len(edges) + 1


def test_neighbouring_edges_have_a_name_of_one_number() -> None:
    assert edge_names((1, 2, 4)) == ("<1", "1", "2-3", ">=4")


@pytest.mark.key("segments[].name")
@pytest.mark.key("routes[].segments")
def test_a_route_has_the_segments_it_names_in_its_order() -> None:
    segments = [{"name": name, "from": f"key:{name}", "values": ["x"]} for name in ("a", "b", "c")]
    values = policy(segments=segments, routes=[route(segments=["c", "a"]), route("plain")])
    assert decided(values, labels={"a": "x"}).segments == (("c", "other"), ("a", "x"))
    assert decided(values, "plain").segments == ()


@pytest.mark.key("routes[].unit")
def test_the_unit_is_the_first_that_is_present() -> None:
    values = policy(routes=[route(unit=["header:X-User-Id", "body:user", "key"]), route("plain")])
    assert decided(values, headers={"x-user-id": "h"}, user="u", key="k").unit == "h"
    assert decided(values, headers={"x-user-id": ""}, user="u", key="k").unit == "u"
    assert decided(values, user="", key="k").unit == "k"
    missing = decided(values)
    assert missing.unit is None
    assert missing.route.has_unit
    assert not decided(values, "plain").route.has_unit
    assert decided(values, "plain", key="k").unit is None


def test_a_unit_too_long_to_keep_is_missing() -> None:
    values = policy(routes=[route(unit=["body:user", "key"])])
    assert decided(values, user="u" * UNIT_CHARS_MAX).unit == "u" * UNIT_CHARS_MAX
    assert decided(values, user="u" * (UNIT_CHARS_MAX + 1), key="k").unit == "k"
