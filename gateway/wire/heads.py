"""Small pieces of message heads: status lines, targets, hosts, sizes."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

# Of RFC 9110; Python's follow only in later versions.
_PHRASES: Final = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
_STATUS_LINES: Final = {
    int(status): b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, status.phrase).encode()) for status in HTTPStatus
}

# RFC 3986 section 3.2: a registered name, IPv4 or bracketed address, and a port. No user information, no empty host.
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK`, CRLF included; a status without a registered phrase has an empty one."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def is_host(value: bytes) -> bool:
    """Is it a host, with or without a port?"""
    return _HOST.fullmatch(value) is not None


def has_no_body(status: int) -> bool:
    """Statuses whose responses never have a body (RFC 9112 section 6.3)."""
    return status in (204, 304) or status < 200


def fields_bytes(headers: dict[bytes, bytes]) -> int:
    """Size of a parsed head's fields as they were on the wire, give or take optional white space."""
    return sum(map(len, headers)) + sum(map(len, headers.values())) + 4 * len(headers)


def split_target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes] | None:
    """A request target as (path, query, authority), RFC 9112 section 3.2; None if it is no good.

    The authority is "" but in absolute form, where it stands above the Host field.
    """
    authority = b""
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return target, b"", b""
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            return None
        cut = len(rest)
        for mark in (b"/", b"?"):
            if 0 <= (found := rest.find(mark)) < cut:
                cut = found
        authority, target = rest[:cut], rest[cut:]
        if not is_host(authority):
            return None
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        return None
    path, _, query = target.partition(b"?")
    return path, query, authority
