import math

import pytest

from policies import document
from policies.document import Mapping, Node, Scalar, Sequence, parse, resolve
from policies.errors import Mark, Report


def parsed(text: str | bytes) -> tuple[Node | None, list[str]]:
    report = Report("f")
    root = parse(text.encode() if isinstance(text, str) else text, report)
    return root, [str(problem) for problem in report.sorted()]


def value(node: Node) -> object:
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [value(item) for item in node.items]
    return {key: value(entry.node) for key, entry in node.entries.items()}


def good(text: str) -> object:
    root, problems = parsed(text)
    assert root is not None
    assert not problems
    return value(root)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("on", "on"), ("yes", "yes"), ("Off", "Off"), ("y", "y"), ("true", True), ("FALSE", False), ("tRue", "tRue"),
        ("~", None), ("", None), ("null", None), ("Null", None), ("nULL", "nULL"),
        ("0o17", 15), ("017", 17), ("0x1F", 31), ("+7", 7), ("-7", -7), ("1_000", "1_000"), ("0b1", "0b1"),
        ("1:30", "1:30"), ("2026-11-20", "2026-11-20"), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-.inf", -math.inf),
        (".", "."), ("e3", "e3"), ("9" * 33, "9" * 33), ("=", "="), ("<<", "<<"),
    ],
)  # fmt: skip
def test_a_plain_scalar_means_what_the_core_schema_says(text: str, meant: object) -> None:
    assert resolve(text) == meant
    assert type(resolve(text)) is type(meant)


def test_nan_is_a_number() -> None:
    number = resolve(".nan")
    assert isinstance(number, float)
    assert math.isnan(number)


def test_quotes_make_text() -> None:
    assert good("""[ "1", 'true', "", '~' ]""") == ["1", "true", "", "~"]
    assert good("a: |\n  1\nb: >\n  2\n") == {"a": "1\n", "b": "2\n"}


def test_marks_count_characters_from_one() -> None:
    root, _ = parsed("ä: {ö: [x, é]}\n")
    assert isinstance(root, Mapping)
    inner = root.entries["ä"].node
    assert isinstance(inner, Mapping)
    assert (root.entries["ä"].at, inner.entries["ö"].at) == (Mark(1, 1), Mark(1, 5))
    items = inner.entries["ö"].node
    assert isinstance(items, Sequence)
    assert [item.at for item in items.items] == [Mark(1, 9), Mark(1, 12)]


def test_a_byte_order_mark_is_ignored() -> None:
    assert good("\ufeffa: 1\n") == {"a": 1}


def test_line_ends_of_windows() -> None:
    root, problems = parsed("a: 1\r\nb: 2\r\na: 3\r\n")
    assert problems == ["f:3:1: a: the key stands twice, first on line 1, column 1"]
    assert root is not None
    assert value(root) == {"a": 1, "b": 2}


def test_duplicate_keys_deep_down_are_told_with_their_path() -> None:
    _, problems = parsed("a:\n  - b: {c: 1, c: 2}\n")
    assert problems == ["f:2:15: a[0].b.c: the key stands twice, first on line 2, column 9"]


def test_the_value_of_a_refused_key_is_read_and_dropped() -> None:
    root, problems = parsed("1: {x: [1, 2]}\n? [a, b]\n: {c: 1}\nd: 2\n")
    assert problems == ['f:1:1: a key must be text; write "1"', "f:2:3: a key must be text"]
    assert root is not None
    assert value(root) == {"d": 2}


def test_aliases_are_what_their_anchors_are() -> None:
    assert good("a: &x [1, &y 2]\nb: *x\nc: *y\n") == {"a": [1, 2], "b": [1, 2], "c": 2}


def test_an_anchor_may_be_given_anew() -> None:
    assert good("[&x 1, *x, &x 2, *x]") == [1, 1, 2, 2]


def test_a_billion_laughs_are_not_laughed() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    root, problems = parsed("\n".join(lines))
    assert root is None
    assert problems[0].endswith(f"more than {document.NODES_MAX} values, aliases expanded")


def test_depth_is_bounded() -> None:
    root, problems = parsed("[" * 500_000)
    assert root is None
    assert problems == [f"f:1:{document.DEPTH_MAX + 1}: {'[0]' * document.DEPTH_MAX}: nested more than 32 deep"]


def test_a_huge_file_is_refused_unread() -> None:
    root, problems = parsed(b"#" * (document.TEXT_BYTES_MAX + 1))
    assert root is None
    assert problems == ["f:1:1: the file has 1048577 bytes; a policy has at most 1048576"]


def test_a_huge_number_costs_nothing() -> None:
    assert good("9" * 1_000_000) == "9" * 1_000_000


@pytest.mark.parametrize("text", ["!!python/object:os.system x", "!x a", "! a", "!!str 1", "!!map {}"])
def test_tags_are_refused(text: str) -> None:
    root, problems = parsed(text)
    assert root is None
    assert "tags are not supported" in problems[0]


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n", "---\n", "---\n...\n", "~", "null", "\ufeff"])
def test_an_empty_file_is_told_so(text: str) -> None:
    assert parsed(text) == (None, ["f:1:1: the file is empty"])


def test_the_python_parser_serves_where_libyaml_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("yaml.CBaseLoader")
    assert good("a: &x [on, 0o17]\nb: *x\n") == {"a": ["on", 15], "b": ["on", 15]}
    assert parsed("a: [")[0] is None
