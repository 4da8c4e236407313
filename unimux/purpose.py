"""What a one-time address is for: through which front end, for whom, for which service, towards whom (UM-NODE-4, UM-GEN-3).

Model.  Whoever wants an address says so in a `Purpose`.  The stack knows nothing of it: when the address is set, one
`AddressAssigned` event joins the two.  Journals write it down as far as their policy allows; an agent that sets addresses is told
beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

from tapstack.events import Event, EventStream
from tapstack.types import address_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What an address is wanted for; None where nobody said.

    front_end: the way by which the want came: "socks5", "publish", "dns", "secret", "resolver", …
    who: the user, key or program behind it, by name.  service: the name of the service that an SSA is issued for.
    Names come from clients and may hold bytes that are no text; these become escapes, so that a record can be made of them.
    """

    front_end: str | None = None
    who: str | None = None
    service: str | None = None

    def __post_init__(self) -> None:
        for name in ("front_end", "who", "service"):
            text = getattr(self, name)
            if text is not None and not text.isascii():
                object.__setattr__(self, name, text.encode("utf-8", "backslashreplace").decode())


UNNAMED = Purpose()


class AddressAssigned(Event, kw_only=True, frozen=True, tag="assigned"):
    """A one-time address was set for a purpose; `destination`: the peer's address where it was known."""

    address: str
    destination: str | None
    front_end: str | None
    who: str | None
    service: str | None

    def text(self) -> str:
        parts = (("towards", self.destination), ("through", self.front_end), ("for", self.who), ("of", self.service))
        told = " ".join(f"{word} {value}" for word, value in parts if value is not None)
        return f"{self.address} assigned{' ' if told else ''}{told}"


def tell_purpose(
    events: EventStream, now: float, address: bytes, purpose: Purpose, destination: bytes | None = None
) -> None:
    """Say what an address that was just set is for."""
    if events.active:
        events.emit(
            AddressAssigned(
                time=now,
                address=address_text(address),
                destination=None if destination is None else address_text(destination),
                front_end=purpose.front_end,
                who=purpose.who,
                service=purpose.service,
            )
        )
