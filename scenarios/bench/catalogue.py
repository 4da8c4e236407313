"""The benchmarks by id."""

from __future__ import annotations

from collections.abc import Callable

from .bulk import bulk_in, bulk_out, bulk_without_offload
from .connections import latencies, price
from .figures import Figure
from .front import front_end
from .generation import no_repeat, speed
from .growth import growth
from .idle import idle_node, many_idle
from .loss import loss_recovery
from .scanned import scanned
from .setting import Setting
from .siege import besieged
from .simulation import rate_of
from .tables import lookups, memory
from .workers import rates, services

Benchmark = Callable[[Setting], list[Figure]]

BENCHMARKS: dict[str, Benchmark] = {
    "P-1": bulk_out,
    "P-2": bulk_in,
    "P-3": bulk_without_offload,
    "P-4": rates,
    "P-5": price,
    "P-6": services,
    "P-7": latencies,
    "P-8": lookups,
    "P-9": memory,
    "P-10": many_idle,
    "P-11": front_end,
    "P-12": idle_node,
    "P-13": rate_of,
    "P-14": growth,
    "P-15": loss_recovery,
    "P-16": speed,
    "P-17": no_repeat,
    "P-18": scanned,
    "P-19": besieged,
}

WITHOUT_KERNEL = frozenset({"P-8", "P-9", "P-13", "P-16", "P-17"})
"""These need no privilege."""

PROGRAMS = {"iperf3": frozenset({"P-1", "P-2", "P-3", "P-14"}), "radvd": frozenset({"P-12"})}
"""Programs that are not of this project, and the benchmarks that need them."""
