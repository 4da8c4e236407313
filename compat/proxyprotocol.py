"""The header that tells a backend who its client is: PROXY protocol version 2 (haproxy.org, proxy-protocol.txt, §2.2).

What servers read: nginx (`listen … proxy_protocol`), HAProxy, Apache, Postfix, Dovecot and others.  A backend that does not
expect it takes it for garbage; hence an option.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_PROXY = 0x21
_TCP6 = 0x21
_ADDRESSES = struct.Struct("!16s16sHH")


def proxy_header(client: tuple[str, int], service: tuple[str, int]) -> bytes:
    """The header of one connection over TCP and IPv6: the client's address and port, and those it connected to.

    >>> header = proxy_header(("2001:db8::1", 40000), ("2001:db8::2", 80))
    >>> header[:12] == SIGNATURE, header[12:16].hex(), len(header)
    (True, '21210024', 52)
    """
    body = _ADDRESSES.pack(IPv6Address(client[0]).packed, IPv6Address(service[0]).packed, client[1], service[1])
    return SIGNATURE + struct.pack("!BBH", _VERSION_PROXY, _TCP6, len(body)) + body
