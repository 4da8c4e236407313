"""An unmodified router advertisement daemon, radvd, on a router's links."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from ..kernel import Interface, Namespace, scratch_folder
from .process import run_in, until

_POLLING = b"polling for"  # in radvd's log once it has its configuration and its socket
_GOODBYE = 20.0  # seconds for its last advertisement; killed earlier, it would leave its hosts a default router


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What to advertise on one link (RFC 4861 §6.2.1); times in seconds.

    min_interval, max_interval: between unsolicited advertisements; the first is at most three quarters of the second.
    Below 3 and 4 the rules for mobile networks hold (RFC 6275 §7.3, §7.5): down to 0.03 and 0.07, and the
    advertisement carries an Advertisement Interval option.
    router_lifetime: 0 advertises a router that is no default router.
    valid_lifetime, preferred_lifetime: of the prefix's addresses.
    rdnss: recursive name servers (RFC 8106).
    """

    interface: Interface
    prefix: str
    min_interval: float = 3
    max_interval: float = 4
    router_lifetime: int = 1800
    valid_lifetime: int = 3600
    preferred_lifetime: int = 1800
    on_link: bool = True
    autonomous: bool = True
    mtu: int | None = None
    rdnss: Sequence[str] = ()
    rdnss_lifetime: int = 600

    def __post_init__(self) -> None:
        if not 0.03 <= self.min_interval <= 0.75 * self.max_interval <= 0.75 * 1800:
            raise ValueError(f"no router may advertise every {self.min_interval:g} to {self.max_interval:g} s")

    def configuration(self) -> str:
        """The stanza of radvd.conf."""
        lines = [
            f"interface {self.interface.name} {{",
            "  AdvSendAdvert on;",
            f"  MinRtrAdvInterval {self.min_interval:g};",
            f"  MaxRtrAdvInterval {self.max_interval:g};",
            f"  MinDelayBetweenRAs {min(self.min_interval, 3):g};",
            *(["  AdvIntervalOpt on;"] if self.min_interval < 3 or self.max_interval < 4 else []),
            f"  AdvDefaultLifetime {self.router_lifetime};",
            *([f"  AdvLinkMTU {self.mtu};"] if self.mtu is not None else []),
            f"  prefix {IPv6Network(self.prefix)} {{",
            f"    AdvOnLink {_flag(self.on_link)};",
            f"    AdvAutonomous {_flag(self.autonomous)};",
            f"    AdvValidLifetime {self.valid_lifetime};",
            f"    AdvPreferredLifetime {self.preferred_lifetime};",
            "  };",
        ]
        if self.rdnss:
            servers = " ".join(str(IPv6Address(server)) for server in self.rdnss)
            lines += [f"  RDNSS {servers} {{", f"    AdvRDNSSLifetime {self.rdnss_lifetime};", "  };"]
        return "\n".join([*lines, "};", ""])


def _flag(on: bool) -> str:
    return "on" if on else "off"


@asynccontextmanager
async def router_advertiser(where: Namespace, *advertisements: Advertisement) -> AsyncIterator[None]:
    """Advertise on the links of a router until the block ends; the namespace must forward (radvd insists).

    Solicitations are answered after a random delay of up to half a second (RFC 4861 §6.2.6).  At the end a last
    advertisement takes the default router back (router lifetime 0).
    """
    with scratch_folder("radvd") as folder:
        configuration = folder / "radvd.conf"
        configuration.write_text("".join(each.configuration() for each in advertisements))
        log = folder / "radvd.log"
        argv = ("radvd", "--config", str(configuration), "--nodaemon")
        options = ("--logmethod", "stderr", "--debug", "1", "--pidfile", str(folder / "radvd.pid"))
        with log.open("wb") as output:
            async with run_in(where, (*argv, *options), stdout=output, stderr=output, grace=_GOODBYE) as process:
                await until(process, lambda: _POLLING in log.read_bytes(), log)
                yield
