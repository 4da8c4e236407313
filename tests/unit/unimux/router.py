"""A router in a LAN of nodes in memory: prefixes come and go as advertisements say."""

from __future__ import annotations

from tests.unit.ipv6.bench import ROUTER_MAC, advertisement
from tests.unit.unimux.lan import PREFIX, Lan

OTHER_PREFIX = "2001:db8:77::"
PREFERRED = 14_400
VALID = 86_400
TWO_HOURS = 7200
"""Seconds below which an advertisement cannot bring a valid lifetime (RFC 4862 §5.5.3 (e))."""


class Router:
    """Advertises the LAN's prefix from the beginning; `prefer` and `deprecate` any."""

    def __init__(self, net: Lan) -> None:
        self._port = net.switch.connect(bytes.fromhex(ROUTER_MAC.replace(":", "")))
        self.prefer()

    def prefer(self, prefix: str = PREFIX, preferred: int = PREFERRED) -> None:
        """Say that addresses may be formed in a prefix, for so many seconds."""
        self._port.send([bytes(advertisement(prefix=prefix, preferred=preferred, valid=VALID))])

    def deprecate(self, prefix: str = PREFIX) -> None:
        """Say that nothing new is to start in a prefix, as a router does that renumbers."""
        self._port.send([bytes(advertisement(prefix=prefix, preferred=0, valid=TWO_HOURS))])
