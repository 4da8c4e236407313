"""Host and port as people write them."""

from __future__ import annotations


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
