"""What is said to a request for a path that is not there: the path that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import ApiError
from policies.errors import nearest

PATH_CHARS_MAX = 200
"""Of a path that is repeated in a message."""
BEGINNING_CHARS_MIN = len("/v1/m")
"""A path that is only the beginning of another one is a hint from here on."""


def not_there(path: bytes, known: Iterable[bytes]) -> ApiError:
    """404 for `path`, with the nearest of the `known` paths."""
    text = path.decode("latin-1")
    shown = text if len(text) <= PATH_CHARS_MAX else f"{text[:PATH_CHARS_MAX]}..."
    hint = _meant(text, [*map(bytes.decode, known)]) or "see /v1/models"
    return ApiError(404, "invalid_request_error", f"there is no {shown}; {hint}", code="not_found")


def _meant(path: str, known: list[str]) -> str:
    """`/chat/completions` of a base_url without /v1, `/v1/chat` of one who guesses; else whatever is spelt alike."""
    for other in known:
        if (path.count("/") > 1 and other.endswith(path)) or (len(path) >= BEGINNING_CHARS_MIN and other.startswith(f"{path}/")):
            return f'did you mean "{other}"?'
    return nearest(path, known)
