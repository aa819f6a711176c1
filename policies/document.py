"""Text to a tree of nodes that know where they stand: YAML as the 1.2 core schema reads it.

PyYAML's parser (libyaml where it is there) only delivers events. Composing is done here, since a policy needs what YAML 1.1
loaders do not give: `on` and `yes` are strings, duplicate keys are errors with both places, and depth and the size that
aliases expand to are bounded while reading, so that no text can exhaust a process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

import msgspec
import yaml

from policies.errors import Mark, Report, shown

TEXT_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 32
NODES_MAX = 200_000
"""Nodes of the tree with every alias expanded."""
DIGITS_MAX = 32
"""A longer number is text: none that a policy needs is longer, and turning digits into an int takes quadratic time."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

ScalarValue: TypeAlias = str | int | float | bool | None


class Scalar(msgspec.Struct):
    """A leaf. `plain`: written without quotes."""

    at: Mark
    value: ScalarValue
    text: str
    plain: bool


class Sequence(msgspec.Struct):
    """A list."""

    at: Mark
    items: list[Node]


class Entry(msgspec.Struct):
    """One key of a mapping with its value; `at` is the key's place."""

    at: Mark
    node: Node


class Mapping(msgspec.Struct):
    """Keys, in the order of the file."""

    at: Mark
    entries: dict[str, Entry]


Node: TypeAlias = Scalar | Sequence | Mapping


def parse(data: bytes, report: Report) -> Node | None:
    """The document's root, or None where the text cannot be read at all. What is wrong goes to `report`."""
    text = _decode(data, report)
    if text is None:
        return None
    composer = _Composer(report)
    try:
        for event in _events(text):
            if not composer.take(event):
                return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        report.add(at, "", f"not valid YAML: {error.problem or error.context}", _syntax_hint(text, at))
        return None
    except yaml.YAMLError as error:
        report.add(Mark(1, 1), "", f"not valid YAML: {str(error).splitlines()[0]}")
        return None
    root = composer.root
    if root is None or (isinstance(root, Scalar) and root.value is None):
        report.add(Mark(1, 1), "", "the file is empty")
        return None
    return root


def _events(text: str) -> Iterator[yaml.Event]:
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _decode(data: bytes, report: Report) -> str | None:
    start = Mark(1, 1)
    if len(data) > TEXT_BYTES_MAX:
        report.add(start, "", f"the file has {len(data)} bytes; a policy has at most {TEXT_BYTES_MAX}")
        return None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        report.add(start, "", "the file is UTF-16 or UTF-32", "save it as UTF-8")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report.add(_mark_at(data[: error.start].decode(), error.start), "", "not UTF-8 text", "is this the policy file?")
        return None
    found = _UNPRINTABLE.search(text)
    if found:
        at = _mark_at(text, found.start())
        report.add(at, "", f"the character U+{ord(found.group()):04X} may not stand in YAML", "is this the policy file?")
        return None
    return text


def _mark_at(text: str, index: int) -> Mark:
    before = text[:index]
    return Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _syntax_hint(text: str, at: Mark) -> str:
    lines = text.splitlines()
    line = lines[at.line - 1] if at.line <= len(lines) else ""
    if "${" in line:
        return 'within { } and [ ] a reference needs quotes: "${env:NAME}"'
    return "indent with spaces, not tabs" if "\t" in line[: at.column] else ""


class _Open:
    """A collection whose end has not come yet."""

    def __init__(self, node: Sequence | Mapping, anchor: str | None, path: str, size_before: int) -> None:
        self.node = node
        self.anchor = anchor
        self.path = path
        self.size_before = size_before
        self.key: Scalar | None = None
        """Of a mapping: the key that waits for its value."""
        self.dropped = False
        """That key was refused; its value is read and dropped."""


class _Composer:
    """Events to nodes, without recursion."""

    def __init__(self, report: Report) -> None:
        self.root: Node | None = None
        self._report = report
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        """By name: the node and its expanded size; None while it is being read."""
        self._size = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> bool:
        """False: stop, nothing sensible can follow."""
        at = Mark(event.start_mark.line + 1, event.start_mark.column + 1) if event.start_mark else Mark(1, 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._report.add(at, "", "a second document begins here; a policy is one")
                return False
            return True
        if isinstance(event, yaml.CollectionEndEvent):
            closed = self._open.pop()
            if closed.anchor is not None:
                self._anchors[closed.anchor] = (closed.node, self._size - closed.size_before)
            self._place(closed.node)
            return True
        if not isinstance(event, yaml.NodeEvent):
            return True
        return self._node(event, at)

    def _node(self, event: yaml.NodeEvent, at: Mark) -> bool:
        self._size += 1
        if isinstance(event, yaml.AliasEvent):
            if not self._alias(event.anchor or "", at):
                return False
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            self._report.add(at, self._path(), f"tags are not supported: {_tag(event.tag)}", "leave it out; quotes make text")
            return False
        elif isinstance(event, yaml.ScalarEvent):
            plain = not event.style
            scalar = Scalar(at, resolve(event.value) if plain else event.value, event.value, plain)
            if event.anchor is not None:
                self._anchors[event.anchor] = (scalar, 1)
            self._place(scalar)
        else:
            node = Sequence(at, []) if isinstance(event, yaml.SequenceStartEvent) else Mapping(at, {})
            if event.anchor is not None:
                self._anchors[event.anchor] = None
            if len(self._open) == DEPTH_MAX:
                self._report.add(at, self._path(), f"nested more than {DEPTH_MAX} deep")
                return False
            self._open.append(_Open(node, event.anchor, self._path(), self._size - 1))
        if self._size > NODES_MAX:
            self._report.add(at, "", f"more than {NODES_MAX} values, aliases expanded")
            return False
        return True

    def _alias(self, name: str, at: Mark) -> bool:
        if name not in self._anchors:
            self._report.add(at, self._path(), f"no anchor &{name} stands before this alias")
            return False
        found = self._anchors[name]
        if found is None:
            self._report.add(at, self._path(), f"the alias *{name} stands within its own anchor")
            return False
        self._size += found[1]
        self._place(found[0])
        return True

    def _path(self) -> str:
        """Of the node that comes next."""
        if not self._open:
            return ""
        top = self._open[-1]
        if isinstance(top.node, Sequence):
            return f"{top.path}[{len(top.node.items)}]"
        return below(top.path, top.key.text) if top.key else top.path

    def _place(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        top = self._open[-1]
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        elif top.key is None:
            self._key(top, top.node, node)
        else:
            if not top.dropped:
                top.node.entries[top.key.text] = Entry(top.key.at, node)
            top.key = None

    def _key(self, top: _Open, mapping: Mapping, node: Node) -> None:
        top.dropped = True
        top.key = node if isinstance(node, Scalar) else Scalar(node.at, None, "?", plain=False)
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            hint = f"write {shown(node.text)}" if isinstance(node, Scalar) and node.text else ""
            self._report.add(node.at, top.path, "a key must be text", hint)
        elif node.text in mapping.entries:
            first = mapping.entries[node.text].at
            self._report.add(
                node.at, below(top.path, node.text), f"the key stands twice, first on line {first.line}, column {first.column}"
            )
        else:
            top.dropped = False


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")[:DIGITS_MAX]


def below(path: str, key: str) -> str:
    """The path of a key: `routes[0]` and `name` make `routes[0].name`; a key that is no plain word is put in quotes."""
    word = key if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) else shown(key)
    return f"{path}.{word}" if path else word


def resolve(text: str) -> ScalarValue:
    """What a plain scalar means in the YAML 1.2 core schema (YAML 1.2.2, section 10.3.2)."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text in ("true", "True", "TRUE")
    if len(text) > DIGITS_MAX:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return float(text.replace(".", ""))
    if text in (".nan", ".NaN", ".NAN"):
        return float("nan")
    return text
