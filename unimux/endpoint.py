"""Host, port and prefix as people write them."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network


def endpoint_text(host: str, port: int) -> str:
    """Both in one text.

    >>> endpoint_text("2001:db8::1", 80), endpoint_text("example.org", 443)
    ('[2001:db8::1]:80', 'example.org:443')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_endpoint(text: str) -> tuple[str, int] | None:
    """What `endpoint_text` was made of; None for text that is no host with a port from 1 to 65535.

    >>> parse_endpoint("[2001:db8::1]:80"), parse_endpoint("example.org:443")
    (('2001:db8::1', 80), ('example.org', 443))
    >>> parse_endpoint("2001:db8::1:80"), parse_endpoint("example.org:65536"), parse_endpoint(":80")
    (None, None, None)
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not bracketed) or not (port.isascii() and port.isdigit() and len(port) <= 5):
        return None
    if not 0 < int(port) < 1 << 16:
        return None
    return host[1:-1] if bracketed else host, int(port)


def parse_prefix(text: str) -> IPv6Network:
    """An IPv6 prefix; an address alone is one of 128 bits.

    Raises `ValueError` with a clause that says how to write it:

    >>> parse_prefix("2001:db8::1/32")
    Traceback (most recent call last):
        ...
    ValueError: write 2001:db8::/32
    >>> parse_prefix("192.0.2.0/24")
    Traceback (most recent call last):
        ...
    ValueError: write it like 2001:db8::/64
    """
    try:
        masked = IPv6Network(text, strict=False)
    except ValueError:
        raise ValueError("write it like 2001:db8::/64") from None
    try:
        return IPv6Network(text)
    except ValueError:
        raise ValueError(f"write {masked}") from None


def parse_name_server(text: str) -> IPv6Address:
    """The address of a name server, to which datagrams can go.

    Raises `ValueError` with a clause that says how to write it:

    >>> parse_name_server("2001:db8::53")
    IPv6Address('2001:db8::53')
    >>> parse_name_server("10.0.0.1")
    Traceback (most recent call last):
        ...
    ValueError: write an IPv6 address such as 2001:db8::53
    >>> parse_name_server("::1")
    Traceback (most recent call last):
        ...
    ValueError: nothing can be sent there from another address
    """
    try:
        found = IPv6Address(text)
    except ValueError:
        raise ValueError("write an IPv6 address such as 2001:db8::53") from None
    if found.scope_id is not None:
        raise ValueError("a node has one link, so write it without the part behind %")
    if found.is_unspecified or found.is_loopback or found.is_multicast or found.ipv4_mapped is not None:
        raise ValueError("nothing can be sent there from another address")
    return found
