"""Domain names as they stand in options: labels with their lengths, never compressed (RFC 1035 §3.1, RFC 8106 §5.2)."""

from __future__ import annotations

from .error import WireError


def parse_name(data: memoryview, at: int) -> tuple[str, int]:
    """The domain name that begins at `at` of `data`, in ASCII with dots and without the dot of the root, and where it ends.

    Raises `WireError` for what is no name, a compressed one among it.
    """
    labels: list[str] = []
    begin = at
    while True:
        if at >= len(data):
            raise WireError("a domain name runs over the end of its option")
        length = data[at]
        after = at + 1 + length
        if not length:
            break
        label = bytes(data[at + 1 : after])
        if length > 63 or len(label) < length or not label.isascii() or b"." in label:
            raise WireError("not a label of a domain name")
        labels.append(label.decode("ascii"))
        at = after
    if after - begin > 255:
        raise WireError("a domain name of more than 255 bytes")
    return ".".join(labels), after


def pack_name(name: str) -> bytes:
    """A name as labels; `WireError` for one that is not ASCII, or too long.

    >>> pack_name("ab.example")
    b'\\x02ab\\x07example\\x00'
    """
    try:
        labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    except UnicodeEncodeError:
        raise WireError(f"{name!r} is not an ASCII domain name") from None
    if any(not 1 <= len(label) <= 63 for label in labels) or sum(map(len, labels)) + len(labels) + 1 > 255:
        raise WireError(f"{name!r} is not a domain name")
    return b"".join([bytes((len(label),)) + label for label in labels]) + b"\0"
