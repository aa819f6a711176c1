"""What is read of the fields of a request body, and how."""

from __future__ import annotations

from typing import Final

import msgspec


class StreamOptions(msgspec.Struct):
    """`stream_options` of chat and completions."""

    include_usage: bool | None = None


class Metadata(msgspec.Struct):
    """`metadata` of messages."""

    user_id: str | None = None


FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
FIELDS_OR_NULL: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
STRING: Final = msgspec.json.Decoder(str)
STRING_OR_NULL: Final = msgspec.json.Decoder(str | None)
BOOL_OR_NULL: Final = msgspec.json.Decoder(bool | None)
INT_OR_NULL: Final = msgspec.json.Decoder(int | None)
STREAM_OPTIONS: Final = msgspec.json.Decoder(StreamOptions | None)
METADATA: Final = msgspec.json.Decoder(Metadata | None)
