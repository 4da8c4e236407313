"""What a program's kernel is told where its packet came to nothing, so that the program sees the true cause.

| the node's error                        | what the kernel gets        | errno of the program |
|-----------------------------------------|-----------------------------|----------------------|
| refused                                 | RST                         | ECONNREFUSED         |
| no route, no prefix                     | unreachable, no route       | ENETUNREACH          |
| host unreachable, hop limit, no address | unreachable, address        | EHOSTUNREACH         |
| prohibited on the path                  | unreachable, prohibited     | EACCES               |
| no answer                               | nothing                     | ETIMEDOUT, in its own time |
"""

from __future__ import annotations

import errno

from tapstack.ipv6.packet import Packet
from tapstack.stack import Stack
from tapstack.wire import icmpv6

_CODES = {
    errno.ENETUNREACH: icmpv6.UnreachableCode.NO_ROUTE,
    errno.EHOSTUNREACH: icmpv6.UnreachableCode.ADDRESS,
    errno.EACCES: icmpv6.UnreachableCode.PROHIBITED,
    errno.ECONNREFUSED: icmpv6.UnreachableCode.PORT,
}


def code_of(error: Exception) -> icmpv6.UnreachableCode | None:
    """The code of Destination Unreachable that stands for an error; None for a time-out, which is silence.

    >>> from unimux import errors
    >>> code_of(errors.ConnectRefused("::1", 1)), code_of(errors.ConnectTimeout("::1", 1))
    (<UnreachableCode.PORT: 4>, None)
    >>> code_of(errors.PoolExhausted(1.0))
    <UnreachableCode.ADDRESS: 3>
    """
    if isinstance(error, TimeoutError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    return _CODES.get(number or 0, icmpv6.UnreachableCode.ADDRESS)


def refuse_call(stack: Stack, packet: Packet, error: Exception, now: float) -> None:
    """Answer a SYN whose destination could not be reached."""
    if isinstance(error, ConnectionRefusedError):
        assert packet.entry is not None
        segment = stack.tcp.read(packet)
        assert segment is not None, "it was read as it came"
        stack.tcp.reset(segment, packet.entry, now)
    elif (code := code_of(error)) is not None:
        stack.host.icmp_error(packet, icmpv6.Type.DESTINATION_UNREACHABLE, code, 0, now)
