"""Files of texts, one JSON object a line: `{"text" | "messages": ..., "label"?: ..., "segment"?: ...}`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.cli.output import USAGE, CommandError
from policies.ood.text import TextKind, guard_text, turns

LINE_BYTES_MAX = 32 << 20
LINES_MAX = 1_000_000


class Line(msgspec.Struct):
    """One line. Other fields are left alone, so that exported records can be read too."""

    text: str | None = None
    messages: Any = None
    label: str | int | None = None
    segment: str | None = None

    def guard_text(self, kind: TextKind) -> str | None:
        """What a detector sees of it, as of live traffic; a bare text is one user turn."""
        return guard_text(turns(self.text if self.text is not None else self.messages), kind)


def read_lines(path: str) -> Iterator[Line]:
    """The lines of a file, blank ones left out. Raises CommandError, with file and line, for what is not as it should be."""
    decoder = msgspec.json.Decoder(Line)
    number = 0
    try:
        with open(path, "rb") as file:
            while raw := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                if len(raw) > LINE_BYTES_MAX or number > LINES_MAX:
                    raise CommandError(f"{path}:{number}: more than {LINE_BYTES_MAX} bytes in a line, or {LINES_MAX} lines", USAGE)
                if raw.isspace():
                    continue
                line = decoder.decode(raw)
                if (line.text is None) == (line.messages is None):
                    raise CommandError(f'{path}:{number}: a line needs "text" or "messages", and not both', USAGE)
                yield line
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", USAGE) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(f"{path}:{number}: {error}", USAGE) from None
