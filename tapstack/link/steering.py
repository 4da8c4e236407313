"""Which queue of a multi-queue TAP a frame goes to: by one byte of its destination address, in the kernel.

By itself the kernel gives a new flow to any queue.  Stacks that share nothing need every packet for an address of theirs, the
first SYN too; so a program of three instructions, which the kernel checks and runs for each frame, reads one byte of the IPv6
destination.  With a /64 per stack that byte is the last of the prefix: 0, 1, 2 … is the number of the queue.  Multicast and
link-local destinations have a zero there, and go to the first.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct

from .errors import LinkUnavailable, Unavailable

DESTINATION_AT = 14 + 24
"""Where the destination address begins in an Ethernet frame with IPv6."""

# <linux/bpf.h>, <linux/if_tun.h>
_BPF_PROG_LOAD = 5
_SOCKET_FILTER = 1
_TUNSETSTEERINGEBPF = 0x800454E0
_SYSTEM_CALLS = {"x86_64": 321, "aarch64": 280}

_instruction = struct.Struct("=BBhi")
_attributes = struct.Struct("=IIQQIIQII")


def _program(at: int) -> bytes:
    """Return the byte `at` of the frame: r6 = context; r0 = byte; exit."""
    keep_context = _instruction.pack(0xBF, 0x16, 0, 0)
    load_byte = _instruction.pack(0x30, 0, 0, at)
    leave = _instruction.pack(0x95, 0, 0, 0)
    return keep_context + load_byte + leave


def steer_by_destination(device: int, byte: int) -> None:
    """Give frames to the queue whose number is byte `byte` (0 to 15) of their IPv6 destination, modulo the number of queues.

    device: a file descriptor of the TAP.  Raises `LinkUnavailable` where the kernel has no such programs or allows us none.
    """
    program = ctypes.create_string_buffer(_program(DESTINATION_AT + byte))
    license_ = ctypes.create_string_buffer(b"GPL")
    count = (len(program) - 1) // _instruction.size
    attributes = ctypes.create_string_buffer(
        _attributes.pack(_SOCKET_FILTER, count, ctypes.addressof(program), ctypes.addressof(license_), 0, 0, 0, 0, 0)
    )
    number = _SYSTEM_CALLS.get(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    loaded = -1 if number is None else libc.syscall(number, _BPF_PROG_LOAD, attributes, _attributes.size)
    if loaded < 0:
        why = os.strerror(ctypes.get_errno()) if number is not None else f"{platform.machine()} is not known here"
        raise LinkUnavailable(
            Unavailable.REFUSED,
            f"The kernel takes no program that chooses the queue of a TAP ({why}): run as root, or with one queue.",
        )
    try:
        fcntl.ioctl(device, _TUNSETSTEERINGEBPF, struct.pack("=i", loaded))
    except OSError as error:
        raise LinkUnavailable(
            Unavailable.REFUSED, f"The TAP takes no program that chooses its queues ({error.strerror}): use one queue."
        ) from error
    finally:
        os.close(loaded)
