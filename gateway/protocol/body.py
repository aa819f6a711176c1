"""The request body: checked, read for the few fields the gateway needs, and spliced, the rest left as the client wrote it.

The body is walked once. Its top-level fields come out as undecoded spans (`msgspec.Raw`), and the few that matter are decoded
from there. Two keys that are the same after unescaping are refused: what was authorised must be what is called.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Final

import msgspec

from gateway.errors import ApiError
from gateway.protocol.asking import asked, kept
from gateway.protocol.body_shapes import (
    BOOL_OR_NULL,
    FIELDS,
    FIELDS_OR_NULL,
    INT_OR_NULL,
    METADATA,
    STREAM_OPTIONS,
    STRING,
    STRING_OR_NULL,
)
from gateway.protocol.prompt import affinity, prompt_chars, prompts
from gateway.protocol.spans import Edit, RepeatedNameError, spliced, walk
from policies.plan import Endpoint, Evidence

FIELDS_MAX: Final = 256
"""Top-level fields of a body."""
MODEL_CHARS_MAX: Final = 256
STREAM_OPTIONS_BYTES_MAX: Final = 1024
"""They are decoded again later, from further down the stack: so short, they cannot be nested too deeply for that."""
RESPONSES_LOGPROBS: Final = "message.output_text.logprobs"
"""How `/v1/responses` is asked for them, in `include`."""

_SPACE: Final = b" \t\r\n"


_encode: Final = msgspec.json.encode


class Body:
    """One request body. `raw` is what the client sent; everything else was read from it."""

    __slots__ = (
        "_fields",
        "_gap",
        "_starts",
        "background",
        "choices",
        "endpoint",
        "include_usage",
        "logprobs",
        "model",
        "previous_response",
        "raw",
        "size",
        "stream",
        "top_logprobs",
        "user",
    )

    model: str
    stream: bool
    choices: int
    """Choices that a whole answer has: `n`, times the prompts of a `/v1/completions` batch."""
    user: str | None
    """`user`; for messages `metadata.user_id`."""
    include_usage: bool
    """The client itself asked for the usage chunk of a stream."""
    logprobs: bool
    """Asked for."""
    top_logprobs: int | None
    """Of so many of the likeliest tokens; completions call it `logprobs`."""
    previous_response: bool
    """Responses: it continues one that a backend keeps."""
    background: bool
    """Responses: it is to run in the background."""

    def __init__(self, raw: bytes, endpoint: Endpoint, fields: dict[str, msgspec.Raw]) -> None:
        self.raw = raw
        self.size = len(raw)
        self.endpoint = endpoint
        self._fields = fields
        self._gap, self._starts = _layout(raw, fields)
        self.choices = 1
        self.user = None
        self.top_logprobs = None
        self.logprobs = self.stream = self.include_usage = self.previous_response = self.background = False
        self._read_model()
        if endpoint == "chat" or endpoint == "completions":
            self._read_sampling()
        elif endpoint == "responses":
            self._read_responses()
        if endpoint != "embeddings" and "stream" in fields:
            self.stream = bool(self._typed("stream", BOOL_OR_NULL, "a boolean"))
        if endpoint != "messages":
            if "user" in fields:
                self.user = self._typed("user", STRING_OR_NULL, "a string")
        elif "metadata" in fields:
            metadata = self._typed("metadata", METADATA, "an object whose user_id is a string")
            self.user = metadata.user_id if metadata is not None else None

    @property
    def names(self) -> Set[str]:
        """The names of the top-level fields, unescaped."""
        return self._fields.keys()

    @property
    def asks_logprobs(self) -> bool:
        """The answer is to have log-probabilities of its tokens."""
        if self.endpoint == "responses" and "include" in self._fields:
            try:
                included = msgspec.json.decode(self._fields["include"])
            except (msgspec.DecodeError, RecursionError):
                included = None  # the backend will refuse it
            if isinstance(included, list) and RESPONSES_LOGPROBS in included:
                return True
        return self.logprobs or bool(self.top_logprobs)

    def value(self, name: str) -> bytes:
        """The JSON of a top-level field, as the client wrote it. KeyError where there is none."""
        return bytes(self._fields[name])

    def drop(self) -> None:
        """Let the bytes go: once an answer is on its way a large prompt need not be kept for as long as it streams. What was
        read at the beginning stays; nothing can be rendered any more."""
        self.raw = b""
        self._fields = {}

    def prompt_chars(self) -> int:
        """Characters of text in the prompt; 0 where it has none, as with token ids."""
        return prompt_chars(self.endpoint, self._fields)

    def affinity(self) -> int:
        """A stable 64-bit hash of the prompt's beginning (system text and first user text), so that the later turns of one
        conversation can go to the replica that has its prefix cached."""
        return affinity(self.endpoint, self._fields)

    def render(self, model: str, *, usage: bool, evidence: Evidence | None = None) -> tuple[bytes, ...]:
        """The body to send, in parts: the client's bytes with `model` for the model and, if `usage`, with the request for the
        usage chunk where the endpoint streams one. `evidence`: with the request for log-probabilities where the endpoint has them;
        what the client itself asked for is never lowered. Nothing else changes by a byte; if nothing does, it is `(raw,)`."""
        edits = [] if model == self.model else [self._replace("model", _encode(model))]
        if usage and self.stream and not self.include_usage and (self.endpoint == "chat" or self.endpoint == "completions"):
            edits.append(self._ask_usage())
        if evidence is not None:
            edits += [self._set(*field) for field in asked(self.endpoint, self.logprobs, self.top_logprobs, evidence)]
        return self._splice(edits) if edits else (self.raw,)

    def keeps_logprobs(self, evidence: Evidence) -> int | None:
        """What of the log-probabilities that come for `evidence` is for the client: `gateway.protocol.asking.kept`."""
        return kept(self.endpoint, self.logprobs, self.top_logprobs, evidence)

    def _ask_usage(self) -> Edit:
        options = self._fields.get("stream_options")
        if options is None:
            return self._add(b',"stream_options":{"include_usage":true}')
        merged = FIELDS_OR_NULL.decode(options) or {}
        merged["include_usage"] = msgspec.Raw(b"true")
        return self._replace("stream_options", _encode(merged))

    def _replace(self, name: str, value: bytes) -> Edit:
        start = self._start(name)
        return start, start + len(self._fields[name]), value

    def _set(self, name: str, value: bytes) -> Edit:
        """A top-level field with this value, in the place of the client's if it wrote one."""
        return self._replace(name, value) if name in self._fields else self._add(b',"%b":%b' % (name.encode(), value))

    def _add(self, field: bytes) -> Edit:
        end = self.raw.rindex(b"}")
        return end, end, field

    def _splice(self, edits: list[Edit]) -> tuple[bytes, ...]:
        """`raw` with each edit's span replaced, in parts."""
        raw = self.raw
        if len(edits) == 1:  # most requests: another model, and nothing else
            start, end, replacement = edits[0]
            return raw[:start], replacement, raw[end:]
        return spliced(raw, edits)

    def _start(self, name: str) -> int:
        """Where the value of a field begins in `raw`."""
        if self._starts is not None:
            return self._starts[name]
        gap = self._gap
        position = 1
        for field, value in self._fields.items():
            if field == name:
                break
            position += len(field) + len(value) + 4 + 2 * gap  # two quotes, colon, comma
        return position + len(name) + 3 + gap

    def _typed(self, name: str, decoder: msgspec.json.Decoder[Any], expected: str) -> Any:
        try:
            return decoder.decode(self._fields[name])
        except (msgspec.DecodeError, RecursionError):
            raise _bad(f"'{name}' must be {expected}.", name) from None

    def _read_model(self) -> None:
        if "model" not in self._fields:
            raise _bad("The request body has no 'model'.", "model")
        self.model = model = self._typed("model", STRING, "a string")
        if not 0 < len(model) <= MODEL_CHARS_MAX:
            raise _bad(f"'model' must have 1 to {MODEL_CHARS_MAX} characters.", "model")

    def _read_sampling(self) -> None:
        fields = self._fields
        if "n" in fields:
            n = self._typed("n", INT_OR_NULL, "an integer")
            if n is not None and n < 1:
                raise _bad("'n' must be at least 1.", "n")
            self.choices = n or 1
        if "stream_options" in fields:
            if len(fields["stream_options"]) > STREAM_OPTIONS_BYTES_MAX:
                raise _bad(f"'stream_options' has more than {STREAM_OPTIONS_BYTES_MAX} bytes.", "stream_options")
            options = self._typed("stream_options", STREAM_OPTIONS, "an object whose include_usage is a boolean")
            self.include_usage = options is not None and bool(options.include_usage)
        if self.endpoint == "completions":
            if "logprobs" in fields:
                self.top_logprobs = self._typed("logprobs", INT_OR_NULL, "an integer")
            self.logprobs = self.top_logprobs is not None or "top_logprobs" in fields
            self.choices *= prompts(fields)
            return
        if "logprobs" in fields:
            self.logprobs = bool(self._typed("logprobs", BOOL_OR_NULL, "a boolean"))
        if "top_logprobs" in fields:
            self.top_logprobs = self._typed("top_logprobs", INT_OR_NULL, "an integer")

    def _read_responses(self) -> None:
        fields = self._fields
        if "top_logprobs" in fields:
            self.top_logprobs = self._typed("top_logprobs", INT_OR_NULL, "an integer")
        if "previous_response_id" in fields:
            self.previous_response = self._typed("previous_response_id", STRING_OR_NULL, "a string") is not None
        if "background" in fields:
            self.background = bool(self._typed("background", BOOL_OR_NULL, "a boolean"))


def decode(raw: bytes, endpoint: Endpoint) -> Body:
    """Check a request body and read what the gateway needs of it. Raises ApiError (400), naming the field at fault."""
    if not raw:
        raise _bad("The request body is empty: a JSON object was expected.")
    if not raw.isascii():  # msgspec does not look at the bytes of strings that it skips
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise _bad(f"The request body is not UTF-8 (byte {error.start}).") from None
    try:
        fields = FIELDS.decode(raw)
    except msgspec.ValidationError:
        raise _bad("The request body must be a JSON object.") from None
    except msgspec.DecodeError as error:
        raise _bad(f"The request body is not JSON: {str(error).removeprefix('JSON is malformed: ')}.") from None
    except RecursionError:
        raise _bad("The request body is nested too deeply.") from None
    if len(fields) > FIELDS_MAX:
        raise _bad(f"The request body has more than {FIELDS_MAX} fields.")
    return Body(raw, endpoint, fields)


def _layout(raw: bytes, fields: dict[str, msgspec.Raw]) -> tuple[int, dict[str, int] | None]:
    """How the fields lie in `raw`: either evenly, with so many blanks after each colon and comma, or with each value at a start
    of its own. Raises ApiError for a repeated field.

    In order of cost. What names, values and punctuation need at the least can equal the body's length only if there is no
    blank, no escape in a name and no repeated field between them. With a blank after each colon and comma, as Python's `json`
    writes, the body is put together again and compared. Anything else is walked.
    """
    length = len(raw) if raw[-1] == 0x7D else len(raw.rstrip(_SPACE))
    least = 4 * len(fields) + 1
    for name, value in fields.items():  # `sum` and `join` take twice as long, compiled
        least += len(name) + len(value)
    if least == length:
        return 0, None
    if least + 2 * len(fields) - 1 == length:
        joined = b", ".join([b'"%b": %b' % (name.encode(), value) for name, value in fields.items()])
        names = "".join(fields)
        if raw.startswith(joined, 1) and '"' not in names and "\\" not in names:
            return 1, None
    return 0, _walk(raw, fields)


def _walk(raw: bytes, fields: dict[str, msgspec.Raw]) -> dict[str, int]:
    """Where each field's value begins."""
    try:
        return {name: start for name, _, start, _ in walk(raw, 0, fields)}
    except RepeatedNameError as error:
        name = error.args[0]
        raise _bad(f"The request body has '{name}' more than once.", name) from None


def _bad(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "invalid_request_error", message, param=param)
