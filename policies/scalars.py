"""The scalars of the policy file, and how each is written.

Those that YAML writes with a unit are held in base units: durations in seconds, sizes in bytes, percents 0-100.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

Duration: TypeAlias = Annotated[float, "duration"]
"""Seconds; written `400ms 5s 10m 72h 7d`."""
Size: TypeAlias = Annotated[int, "size"]
"""Bytes; written `32MiB 5GiB 64KB`."""
Percent: TypeAlias = Annotated[float, "percent", Meta(ge=0, le=100)]
"""0-100."""
Share: TypeAlias = Annotated[float, "percent", Meta(gt=0, lt=100)]
"""The same, neither nothing nor all."""
Secret: TypeAlias = Annotated[str, "secret"]
"""Only by reference: `${env:NAME}` or `${file:PATH}`."""
File: TypeAlias = Annotated[str, "file", Meta(min_length=1, max_length=1024)]
"""Path of a file that belongs to the policy, relative to the policy file; its content is part of the policy's version."""
Name: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        extra={
            "called": "name",
            "words": "letters, digits, '.', '_' and '-', at most 63, the first of them a letter or digit",
        },
    ),
]
"""What the file calls a thing. It stands in response headers and metric labels, hence the narrow alphabet."""
Text: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^[^\x00-\x1f\x7f]{1,256}$", extra={"called": "text", "words": "1 to 256 characters, none of them a control character"}),
]
"""A value that others define: a model's name, a label, a header's value."""
HeaderName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$",
        extra={"called": "header name", "words": "letters, digits, '-' and the other signs that HTTP allows, at most 64"},
    ),
]
