"""What is made of the schema classes: the JSON Schema, the reference page, the list of keys."""

import re
from typing import Any

import jsonschema
import pytest
import yaml

from policies.compile import decode
from policies.errors import PolicyError
from policies.fields import Group, Many, groups, leaves, policy_shape, schema_keys
from policies.jsonschema import json_schema
from policies.reference import markdown
from policies.schema import Backend, Policy
from tests.policies.building import loaded, policy, route
from tests.policies.golden import FOLDER, names

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_json_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", [name for name in names("right") if not name.startswith("words")])
def test_the_json_schema_takes_every_right_policy(name: str) -> None:
    VALIDATOR.validate(yaml.safe_load((FOLDER / "right" / f"{name}.yaml").read_text()))


BEYOND_JSON_SCHEMA = {"range-edges", "range-timeouts", "range-body-max", "range-duration-zero"}
"""They concern two values, or the number within a text."""
YAML_1_1 = {"unit-sexagesimal", "unknown-merge-key"}
"""PyYAML, which reads for this test, takes them for something else."""
OF_ONE_VALUE = [name for name in names("wrong") if name.split("-")[0] in ("unit", "range", "choice", "later", "unknown")]


@pytest.mark.parametrize("name", sorted(set(OF_ONE_VALUE) - BEYOND_JSON_SCHEMA - YAML_1_1))
def test_the_json_schema_refuses_what_concerns_one_value_alone(name: str) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load((FOLDER / "wrong" / f"{name}.yaml").read_text()))


def test_every_leaf_is_described_with_an_example_that_is_valid() -> None:
    for path, field in leaves(policy_shape()):
        assert field.description.endswith("."), path
        assert field.example is not None, path
    for path, group in groups(policy_shape()):
        assert group.description.endswith("."), path


def test_every_example_is_taken_by_the_json_schema() -> None:
    whole = json_schema()

    def walk(schema: Any) -> None:
        if isinstance(schema, dict):
            for example in schema.get("examples", []):
                jsonschema.Draft202012Validator({**schema, "$defs": whole["$defs"]}).validate(example)
            for inner in schema.values():
                walk(inner)

    walk(whole["properties"])
    walk(whole["$defs"])


def test_the_reference_has_every_key_and_every_word_that_is_free_for_later() -> None:
    page = markdown()
    for path in schema_keys():
        group, _, name = path.rpartition(".")
        section = page.split(f"## {group or 'The file'}\n")[1].split("\n## ")[0]
        assert f"| `{name}` |" in section, path
    for _, shape in groups(policy_shape()):
        for word in shape.later:
            assert f"`{word}`" in page
    assert all(line.count(" | ") == 4 for line in page.splitlines() if line.startswith("| `"))


def test_the_list_of_keys() -> None:
    keys = schema_keys()
    assert len(keys) == len(set(keys))
    assert {"version", "backends[].timeouts.connect", "routes[].matches[].keys", "segments[].else", "backends[].warm_up.for"} <= set(keys)
    assert not [key for key in keys if key.endswith(("backends", "timeouts", "matches"))]


def test_words_for_later_are_no_keys_yet() -> None:
    for _, shape in groups(policy_shape()):
        assert not set(shape.later) & {field.name for field in shape.fields}


def test_every_default_is_one_that_the_file_could_say() -> None:
    """Defaults are written out as the canonical form does, and read back through the same checks."""
    written = decode(loaded(policy()).canonical)
    assert written == loaded(policy()).policy
    assert written.backends[0] == Backend("small", "vllm", "small-model", ("http://small:8000",))


def test_a_new_list_of_groups_cannot_be_forgotten() -> None:
    """The reader, the diff and the check walk top-level lists by name: each entry has one, or its group is told of by hand."""
    for field in policy_shape().fields:
        if isinstance(field.shape, Many) and isinstance(field.shape.item, Group):
            assert "name" in [inner.name for inner in field.shape.item.fields], field.name
    assert [field.name for field in policy_shape().fields] == [name.rstrip("_") for name in Policy.__struct_fields__]


@pytest.mark.parametrize("word", ["experiments", "shadow", "monitors", "triggers", "lifecycle", "limits"])
def test_words_of_the_design_that_are_not_built_are_refused_as_such(word: str) -> None:
    places = [path for path, shape in groups(policy_shape()) if word in shape.later]
    assert len(places) == 1
    if places == ["routes[]"]:
        with pytest.raises(PolicyError) as raised:
            loaded(policy(routes=[route() | {word: {}}]))
        assert [str(p) for p in raised.value.problems if re.search("not supported yet$", str(p))]
