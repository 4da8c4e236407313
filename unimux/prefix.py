"""Which prefix serves a destination (UM-DAS-7)."""

from __future__ import annotations

from dataclasses import replace

from tapstack.ipv6.prefixes import Prefix
from tapstack.ipv6.selection import Candidate, choose_source


def choose_prefix(prefixes: list[Prefix], destination: bytes | None) -> Prefix | None:
    """The prefix to take an address from (RFC 6724 §5; UM-DAS-7); without a destination the first of the widest use.

    Where rules 1 to 7 leave a choice, a dedicated prefix comes before an on-link one, since its addresses cost
    the link nothing; rule 8 (longest match) decides among prefixes of one sort.
    """
    if len(prefixes) == 1:
        return prefixes[0]
    groups = [[p for p in prefixes if p.dedicated], [p for p in prefixes if not p.dedicated]]
    if destination is None:
        return next((prefix for group in groups for prefix in sorted(group, key=_unique_local)), None)
    best: dict[bytes, Prefix] = {}
    finalists: list[Candidate] = []
    for group in groups:
        by_address = {prefix.prefix: prefix for prefix in group}
        winner = choose_source((Candidate(p.prefix, prefix_length=p.length) for p in group), destination)
        if winner is not None:
            best.setdefault(winner.address, by_address[winner.address])
            finalists.append(replace(winner, prefix_length=0))
    chosen = choose_source(finalists, destination)
    return best[chosen.address] if chosen else None


def _unique_local(prefix: Prefix) -> bool:
    return prefix.prefix[0] & 0xFE == 0xFC
