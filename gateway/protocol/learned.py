"""A chunk that was parsed, so that those like it need not be."""

from __future__ import annotations

import re
from typing import Final

from gateway.protocol.chunk_shapes import TEXT_CHUNK, TextChoice
from gateway.protocol.evidence import ARGUMENTS, CALL, CONTENT, FINISH, REASONING, kind_of
from gateway.protocol.spans import RepeatedNameError, fields
from gateway.protocol.sse import event_data
from gateway.protocol.stripping import LOGPROBS_NAME, NOTHING, UNREADABLE, choices, cut, removal, strip, strip_event

_TEXT: Final = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+')
"""What may stand between the quotes of a JSON string; escaped surrogates, which must come in pairs, are left to the parser."""
text_at: Final = _TEXT.match
_PLAIN_BYTES_MAX: Final = 0 if __file__.endswith(".py") else 64
"""Of a text that are looked at one by one, which is quicker than the pattern for a token or two where this is compiled."""
_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C
_SPACE: Final = 0x20

_STARTS: Final = (
    (b'"content":"', CONTENT),
    (b'"text":"', CONTENT),
    (b'"reasoning":"', REASONING),
    (b'"reasoning_content":"', REASONING),
    (b'"arguments":"', ARGUMENTS),
)


class Learned:
    """What stands around a chunk's text and, if it has any, its log-probabilities. An event that has the same, with nothing but
    the inside of a JSON string in the place of the text, is the same chunk with another text: it ends nothing, reports nothing
    new, and is no error."""

    __slots__ = (
        "after",
        "after_bytes",
        "before",
        "before_bytes",
        "ending",
        "keep",
        "kind",
        "logprobs_at",
        "middle",
        "middle_bytes",
        "omits",
        "stays",
    )

    def __init__(self, before: bytes, middle: bytes, after: bytes, kind: str) -> None:
        self.before = before
        """Up to the text."""
        self.middle = middle
        """From the text's end up to the log-probabilities, their brace included; empty where the chunk has none."""
        self.after = after
        """From there on; the first byte closes the log-probabilities."""
        self.before_bytes = len(before)
        self.middle_bytes = len(middle)
        self.after_bytes = len(after)
        self.kind = kind
        """What its text is, as `gateway.protocol.evidence` names it."""
        self.keep: int | None = None
        """As `EvidenceReader.keep`."""
        self.stays = 0
        """Where the log-probabilities are taken out: bytes of `middle` that stay, and what follows them."""
        self.ending = b""
        self.omits = False
        """They are the last field of the choice."""
        self.logprobs_at = 0
        """Where in the event that was last found alike the log-probabilities begin."""

    def alike(self, data: bytes, start: int, parses: bool = False) -> int:
        """Where the event that begins at `start` ends, if it is whole and like the learned one; else 0. `parses`: its
        log-probabilities will be parsed, which shows that they are nothing else."""
        # Slices are compared, since `startswith` with a place costs twice as much where it is compiled.
        text = start + self.before_bytes
        if data[start:text] != self.before:
            return 0
        text_end = _text_end(data, text)
        if not self.middle_bytes:
            end = text_end + self.after_bytes
            return end if data[text_end:end] == self.after else 0
        inside = text_end + self.middle_bytes
        if data[text_end:inside] != self.middle:
            return 0
        end = data.find(b"\n", inside) + 2
        tail = end - self.after_bytes
        if tail < inside or data[tail:end] != self.after:
            return 0
        if data.find(b"\r", inside, tail) >= 0 or (not parses and data.find(FINISH, inside, tail) >= 0):
            return 0
        self.logprobs_at = inside - 1
        return end

    def all_alike(self, data: bytes) -> bool:
        """Whole events, each of them like the learned one, which has no log-probabilities."""
        start, size = 0, len(data)
        while end := self.alike(data, start):
            if end == size:
                return True
            start = end
        return False

    def given(self, data: bytes, start: int, end: int) -> bytes:
        """The event that was last found alike, from `start` to `end`, as the client may be given it."""
        begin = self.logprobs_at
        if self.keep == NOTHING:
            return data[start : begin + 1 - self.middle_bytes + self.stays] + self.ending
        if self.keep is None:
            return data[start:end]
        stop = end - self.after_bytes + 1
        shorter = cut(data[begin:stop], self.keep, omits=self.omits)
        if shorter is not None:
            return b"%b%b%b" % (data[start:begin], shorter, data[stop:end])
        event = data[start:end]
        try:
            return strip_event(event, event[6:-2], strip(event[6:-2], self.keep))
        except UNREADABLE:  # and so it is for the client
            return event


def learn(event: bytes, keep: int | None) -> Learned | None:
    """Keep what stands around the text of a chunk, if that alone is a chunk whose choice has not ended and has no other text: so the
    text is a string within it, and any other string can take its place. None where that is not so."""
    if not event.startswith(b"data: {") or not event.endswith(b"\n\n"):
        return None
    at, text_end, kind = _text(event)
    if at == text_end:
        return None
    if event.find(LOGPROBS_NAME) < 0:
        learned = Learned(event[:at], b"", event[text_end:], kind)
        return learned if _is_ordinary(event[:at] + event[text_end:], kind) else None
    try:
        return _learn_around_logprobs(event, at, text_end, kind, keep)
    except (*UNREADABLE, RepeatedNameError):
        return None


def _text_end(data: bytes, start: int) -> int:
    """Where what may stand between the quotes of a JSON string ends, at a quote or at what may not."""
    at, last = start, min(len(data), start + _PLAIN_BYTES_MAX)
    while at < last:
        each = data[at]
        if each == _QUOTE:
            return at
        if each == _BACKSLASH or each < _SPACE:
            break
        at += 1
    match = text_at(data, start)
    return start if match is None else match.end()


def _text(event: bytes) -> tuple[int, int, str]:
    """Where a text begins and ends that is not empty, and its kind."""
    for name, kind in _STARTS:
        at = event.find(name)
        if at >= 0:
            at += len(name)
            match = text_at(event, at)
            if match is not None and match.end() > at:
                return at, match.end(), kind
    return 0, 0, ""


def _learn_around_logprobs(event: bytes, at: int, text_end: int, kind: str, keep: int | None) -> Learned | None:
    data = event_data(event)
    if data is None or len(data) + 8 != len(event):
        return None
    spans = choices(data)
    if len(spans) != 1:
        return None
    written = fields(data, *spans[0])
    number = next((number for number, field in enumerate(written) if field[0] == "logprobs"), None)
    if number is None or data[written[number][2]] != 0x7B:  # null
        learned = Learned(event[:at], b"", event[text_end:], kind)
        return learned if _is_ordinary(event[:at] + event[text_end:], kind) else None
    _, _, begin, stop = written[number]
    begin, stop = begin + 6, stop + 6  # within the event
    first, last, instead = removal(data, written, number)
    if begin < text_end or first + 6 < text_end or last + 6 != stop:
        return None
    if not _is_ordinary(event[:at] + event[text_end : first + 6] + instead + event[stop:], kind):
        return None
    learned = Learned(event[:at], event[text_end : begin + 1], event[stop - 1 :], kind)
    learned.keep = keep
    learned.omits = not instead
    learned.stays = first + 6 - text_end
    learned.ending = instead + event[stop:]
    return learned


def _is_ordinary(event: bytes, kind: str) -> bool:
    """Without its text the event is a chunk of one choice that goes on and has no text."""
    data = event_data(event)
    if data is None:
        return False
    try:
        chunk = TEXT_CHUNK.decode(data)
    except UNREADABLE:
        return False
    if chunk.choices is None or len(chunk.choices) != 1:
        return False
    choice = chunk.choices[0]
    assert isinstance(choice, TextChoice)
    return not choice.finish_reason and kind_of(choice) == (CALL if kind == ARGUMENTS else "")
