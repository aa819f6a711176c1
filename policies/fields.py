"""The schema classes as data: what the reader, the JSON Schema, the reference page and the tidy test walk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import msgspec

from policies.schema import Policy
from policies.units import show_duration, show_size

Unit: TypeAlias = Literal["duration", "size", "percent", "secret", "file"]


class Leaf(msgspec.Struct, frozen=True):
    """A scalar: text, a number or a flag, with what restricts it."""

    type: type[str] | type[int] | type[float] | type[bool]
    unit: Unit | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    called: str = ""
    """What the reference page calls text of this pattern: "name"."""
    words: str = ""
    """The pattern in words."""


class Choice(msgspec.Struct, frozen=True):
    """One of a few values."""

    values: tuple[str, ...] | tuple[int, ...]


class Many(msgspec.Struct, frozen=True):
    """A list."""

    item: Shape
    min_length: int = 0
    max_length: int | None = None


class Table(msgspec.Struct, frozen=True):
    """A mapping whose keys the author chooses."""

    key: Leaf
    item: Shape
    max_length: int | None = None


class Field(msgspec.Struct, frozen=True):
    """One key of a group."""

    name: str
    """As the file writes it."""
    attribute: str
    shape: Shape
    required: bool
    default: Any
    description: str
    example: Any


class Group(msgspec.Struct, frozen=True):
    """A mapping with the keys of a schema class."""

    cls: type[msgspec.Struct]
    fields: tuple[Field, ...]
    later: tuple[str, ...]
    """Words that POLICY.md reserves here and that are not built yet."""

    @property
    def description(self) -> str:
        return " ".join((self.cls.__doc__ or "").split())


class Either(msgspec.Struct, frozen=True):
    """One word or name, or something else: a mapping, a duration."""

    word: Leaf | Choice
    other: Leaf | Group

    def of(self, value: Any) -> Leaf | Choice | Group:
        """The shape of a value that is there."""
        return self.word if isinstance(value, str) else self.other


class Again(msgspec.Struct, frozen=True):
    """A group within itself."""

    cls: type[msgspec.Struct]

    def group(self) -> Group:
        """The group once more, with its keys."""
        return group(self.cls)


Shape: TypeAlias = Leaf | Choice | Many | Table | Group | Either | Again


def policy_shape() -> Group:
    """The whole file."""
    return group(Policy)


def schema_keys() -> tuple[str, ...]:
    """Every key that a policy may have a value at: `backends[].timeouts.connect`. Groups are there through their keys."""
    return tuple(path for path, _ in leaves(policy_shape()))


def leaves(shape: Group, path: str = "") -> Iterator[tuple[str, Field]]:
    """Every field that is no group, with its path."""
    for field in shape.fields:
        inner, here = field.shape, f"{path}.{field.name}" if path else field.name
        if isinstance(inner, Many) and isinstance(inner.item, Group):
            inner, here = inner.item, f"{here}[]"
        if isinstance(inner, Either):
            yield here, field
            inner = inner.other
            if isinstance(inner, Group):
                yield from leaves(inner, here)
        elif isinstance(inner, Group):
            yield from leaves(inner, here)
        else:
            yield here, field


def groups(shape: Group, path: str = "") -> list[tuple[str, Group]]:
    """Each group with its path, `backends[].timeouts`; a group comes before what is in it."""
    found = [(path, shape)]
    for field in shape.fields:
        inner, suffix = (field.shape.item, "[]") if isinstance(field.shape, Many) else (field.shape, "")
        inner = inner.other if isinstance(inner, Either) else inner
        if isinstance(inner, Group):
            found += groups(inner, f"{path}.{field.name}{suffix}" if path else f"{field.name}{suffix}")
    return found


def in_file(value: Any, shape: Shape) -> Any:
    """A value as the file writes it, defaults left out: 600.0 seconds is `10m`. A secret is not shown."""
    if value is None:
        return None
    if isinstance(shape, Either):
        return in_file(value, shape.of(value))
    if isinstance(shape, Again):
        return in_file(value, shape.group())
    if isinstance(shape, Group):
        pairs = ((f, getattr(value, f.attribute)) for f in shape.fields)
        return {f.name: in_file(held, f.shape) for f, held in pairs if f.required or held != f.default}
    if isinstance(shape, Many):
        return [in_file(item, shape.item) for item in value]
    if isinstance(shape, Table):
        return {key: in_file(item, shape.item) for key, item in value.items()}
    if isinstance(shape, Choice):
        return value
    shows: dict[str | None, Callable[[Any], Any]] = {"duration": show_duration, "size": show_size, "secret": lambda _: "(secret)"}
    show = shows.get(shape.unit)
    return show(value) if show else int(value) if isinstance(value, float) and value.is_integer() else value


def group(cls: type[msgspec.Struct], within: tuple[type[msgspec.Struct], ...] = ()) -> Group:
    """One schema class as data; `within` are the classes that it stands in."""
    return Group(cls, tuple(_field(info, (*within, cls)) for info in msgspec.structs.fields(cls)), getattr(cls, "LATER", ()))


def _field(info: msgspec.structs.FieldInfo, within: tuple[type[msgspec.Struct], ...]) -> Field:
    metas = [m for m in _metadata(info.type) if isinstance(m, msgspec.Meta)]
    description = next((m.description for m in reversed(metas) if m.description), "")
    example = next((m.examples[0] for m in reversed(metas) if m.examples), None)
    default = info.default if info.default is not msgspec.NODEFAULT else None
    if info.default_factory is not msgspec.NODEFAULT:
        default = info.default_factory()
    shape = _shape(info.type, within)
    inner = shape.item if isinstance(shape, Many) else shape
    if isinstance(inner, Group):
        description = description or inner.description
    return Field(info.encode_name, info.name, shape, info.required, default, description, example)


def _metadata(annotation: Any) -> tuple[Any, ...]:
    """Everything said in `Annotated`, also within `X | None`."""
    if get_origin(annotation) is Annotated:
        return (*_metadata(annotation.__origin__), *annotation.__metadata__)
    if get_origin(annotation) in (Union, UnionType):
        return tuple(m for option in get_args(annotation) for m in _metadata(option))
    return ()


def _options(annotation: Any) -> list[Any]:
    """What may stand there, without `Annotated` and without None: leaving a key out is how a policy says none."""
    if get_origin(annotation) is Annotated:
        return _options(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return [option for option in get_args(annotation) if option is not NoneType]
    return [annotation]


def _shape(annotation: Any, within: tuple[type[msgspec.Struct], ...] = ()) -> Shape:
    options = _options(annotation)
    if len(options) == 2:
        word, other = (_shape(option, within) for option in options)
        assert isinstance(word, Leaf | Choice)
        assert isinstance(other, Leaf | Group)
        return Either(word, other)
    metadata = _metadata(annotation)
    said: dict[str, Any] = {}
    for meta in metadata:
        if isinstance(meta, msgspec.Meta):
            said |= {name: value for name in Leaf.__struct_fields__ if (value := getattr(meta, name, None)) is not None}
            said |= meta.extra or {}
    bare = _options(options[0])[0]
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        return Choice(arguments)
    if origin is tuple:
        return Many(_shape(arguments[0], within), said.get("min_length", 0), said.get("max_length"))
    if origin is dict:
        key = _shape(arguments[0])
        assert isinstance(key, Leaf)
        return Table(key, _shape(arguments[1], within), said.get("max_length"))
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return Again(bare) if bare in within else group(bare, within)
    unit = next((m for m in metadata if isinstance(m, str)), None)
    return Leaf(bare, unit, **said)  # type: ignore[arg-type]
