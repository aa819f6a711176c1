"""Blacks out what must not be stored: addresses, numbers and whatever the operator names, before a record is kept or shown.

Where precision and safety conflict, too much is blacked out rather than too little. A stranger wrote the text, so time is
bounded: the patterns here take linear time (possessive repetitions; each candidate has a bounded length), an operator's are
checked by `policies.redaction` and run on windows of text, and a text that still takes too long is not stored at all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence

from policies.redaction import WINDOW_CHARS, pattern_fault

SECONDS_MAX = 1.0
"""For one text; looked at between windows and strings."""
PATTERN_MATCH_CHARS_MAX = 250
"""A longer match of an operator's pattern may be blacked out in part only, where it crosses two windows."""
IBAN_CHARS_MAX = 34

_ATEXT = r"\w.!#$%&'*+/=?^`{|}~-"
_EMAIL = re.compile(rf"(?<![{_ATEXT}])[{_ATEXT}]++@[\w-]++(?:\.[\w-]++)++")
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}")
_IBAN = re.compile(r"(?<![^\W_])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}", re.ASCII)
_PHONE = re.compile(r"(?<!\w)(?:\+|\()?\d(?:[ ().\-/\u00a0\u2010-\u2013]{0,3}\d){6,40}+")
_DATE = re.compile(r"\d{4}[-/.]\d\d[-/.]\d\d(?!\d)|\d\d[-/.]\d\d[-/.]\d{4}(?!\d)")
_DOTTED_NUMBER = re.compile(r"\d+(?:\.\d+|(?:\.\d{1,3}){3})")


class SlowTextError(Exception):
    """Redaction took longer than `SECONDS_MAX`: the text must not be stored."""


class Redactor:
    """The rules of one policy: `email`, `phone`, `card` (Luhn), `iban` (mod 97), `regex:PATTERN`.

    Raises:
        ValueError: An unknown rule, or a pattern that could take too long.
    """

    def __init__(self, rules: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._finders: list[_Finder] = []
        for rule in rules:
            if rule.startswith("regex:"):
                pattern = rule.removeprefix("regex:")
                if fault := pattern_fault(pattern):
                    raise ValueError(f"{rule!r} {fault}")
                self._finders.append(_Windows(re.compile(pattern)))
            elif rule not in _NAMED:
                raise ValueError(f"{rule!r} is no redaction rule")
        # The operator's first, being the most specific; then the strict before the loose: a card number looks like a phone's.
        self._finders += [finder for name, finder in _NAMED.items() if name in rules]

    @property
    def active(self) -> bool:
        """There is a rule at all."""
        return bool(self._finders)

    def deadline(self) -> float:
        """When a redaction that begins now has taken too long."""
        return self._clock() + SECONDS_MAX

    def text(self, text: str, deadline: float) -> str:
        """`text` with every match replaced by `[email]`, `[phone]`, `[card]`, `[iban]` or `[redacted]`.

        Raises:
            SlowTextError: It is past `deadline`.
        """
        for finder in self._finders:
            pieces: list[str] = []
            done = 0
            for start, end in finder.find(text):
                if end:
                    pieces += (text[done:start], finder.label)
                    done = end
                self._check(deadline)
            if done:
                text = "".join((*pieces, text[done:]))
        self._check(deadline)
        return text

    def _check(self, deadline: float) -> None:
        if self._clock() > deadline:
            raise SlowTextError


class _Finder:
    """Finds one kind of thing. `judge` is given a candidate and says where what is to be replaced ends; 0: not here, look on
    from the next character; negative: nothing up to there."""

    def __init__(self, label: str, pattern: re.Pattern[str], judge: Callable[[re.Match[str]], int]) -> None:
        self.label = label
        self._pattern = pattern
        self._judge = judge

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of every match in order; (start, 0) for a candidate that was none."""
        at = 0
        while (match := self._pattern.search(text, at)) is not None:
            end = self._judge(match)
            yield match.start(), max(0, end)
            at = abs(end) or match.start() + 1


class _Windows(_Finder):
    """An operator's pattern, run on windows that overlap, so that each run is short."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        super().__init__("[redacted]", pattern, re.Match.end)

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        at = 0
        while at < len(text):
            stop = min(len(text), at + WINDOW_CHARS)
            # A match that begins later than this may be cut by the window's end: the next window has it whole.
            last = stop if stop == len(text) else stop - PATTERN_MATCH_CHARS_MAX
            match = self._pattern.search(text, at, stop)
            if match is not None and match.start() < last:
                start, end = match.span()
                yield start, end if end > start else 0  # an empty match (a mere look ahead) is none
                at = max(end, start + 1)
            else:
                yield last, 0
                at = last


def _card_end(match: re.Match[str]) -> int:
    """Of the longest card number that begins here and ends where a group of digits ends."""
    text = match.string
    if text[match.start()] not in "23456":  # of Mastercard, Amex, Visa, Discover, UnionPay and their kin
        return 0
    for end in range(match.end(), match.start() + 12, -1):
        if text[end - 1].isdecimal() and not text[end : end + 1].isdecimal():
            digits = [int(c) for c in text[match.start() : end] if c.isdecimal()]
            if len(digits) >= 13 and _luhn(digits):
                return end
    return 0


def _luhn(digits: Sequence[int]) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _iban_end(match: re.Match[str]) -> int:
    """Of the longest account number that begins here and ends where a word ends. ISO 13616: moved and read as a number, the
    remainder by 97 is 1."""
    text = match.string
    for end in range(match.end(), match.start() + 14, -1):
        if text[end - 1].isalnum() and not text[end : end + 1].isalnum():
            compact = "".join(c for c in text[match.start() : end] if c not in " -")
            if 15 <= len(compact) <= IBAN_CHARS_MAX and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1:
                return end
    return 0


def _phone_end(match: re.Match[str]) -> int:
    """A number people dial, not a date, an amount or an address: by its digits and how they are grouped."""
    start, text = match.start(), match.group()
    if (date := _DATE.match(text)) is not None:
        return -(start + date.end())
    if _DOTTED_NUMBER.fullmatch(text) is not None:
        return -match.end()
    groups = [(group.end(), len(group[0])) for group in re.finditer(r"\d+", text)]
    if re.match(r"\w", match.string[match.end() :][:1]):  # the last group is the beginning of a word, or of a longer one
        groups.pop()
    if not groups:
        return -match.end()
    digits = sum(length for _, length in groups)
    if text.startswith(("+", "00")):
        looks = digits >= 8
    elif len(groups) == 1:
        looks = digits in (10, 11)
    else:  # groups of one digit are a list of numbers; 555-1234 is a local number
        looks = (digits >= 9 and digits >= 2 * len(groups)) or [length for _, length in groups] == [3, 4]
    return start + groups[-1][0] if looks else -match.end()


_NAMED = {
    "iban": _Finder("[iban]", _IBAN, _iban_end),
    "card": _Finder("[card]", _CARD, _card_end),
    "email": _Finder("[email]", _EMAIL, re.Match.end),
    "phone": _Finder("[phone]", _PHONE, _phone_end),
}
