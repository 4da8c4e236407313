"""tshark's opinion of all captures of a run, evidence for a verdict or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scenarios.witness.finding import count
from scenarios.witness.tshark import version

from .packets import Listing, Reader


@dataclass(frozen=True, slots=True)
class Opinion:
    """The captures of a run as tshark reads them, by the path in the table of verdicts."""

    listings: dict[str, Listing]
    version: str
    tests: Mapping[str, str]
    """the test that left each capture"""

    @property
    def sound(self) -> bool:
        """Whether every capture could be read and holds packets, and every remark has an explanation."""
        return not self.objections()

    def objections(self) -> list[str]:
        """What nothing explains, and what could not be read: the capture, the frame, and whose test it was."""
        found: list[str] = []
        for name, listing in self.listings.items():
            if listing.error or not listing.packets:
                found.append(f"{name}: {listing.error or 'no packet'} ({self.tests[name]})")
            found += [f"{name}#{number}: {message} ({self.tests[name]})" for number, message in listing.unexplained]
        return found

    def reasons(self) -> list[tuple[str, int]]:
        """How often each explanation was needed."""
        remarks = (r for listing in self.listings.values() for packet in listing.packets for r in packet.remarks)
        return Counter(remark.reason for remark in remarks if remark.reason).most_common()

    def left_out(self) -> list[tuple[str, str]]:
        """(capture, what it does not hold) where a capture is not the whole of its test's traffic."""
        return [(name, text) for name, listing in self.listings.items() for text in listing.left_out]

    def sentence(self) -> str:
        """One line on all of it, what no capture holds included."""
        packets = sum(len(listing.packets) for listing in self.listings.values())
        explained = sum(listing.explained for listing in self.listings.values())
        missing = Counter[str]()
        for _, text in self.left_out():
            number, _, what = text.partition(" ")
            missing[what.removesuffix("s")] += int(number)
        gone = ", ".join(count(number, what) for what, number in sorted(missing.items()))
        return (
            f"{self.version}: {count(len(self.listings), 'capture')}, {packets:,} packets, "
            f"{explained} remarks with an explanation, {len(self.objections())} without"
            + (f"; not kept: {gone}" if gone else "")
        )


def consult(
    checkout: Path, tests: Mapping[str, str], tell: Callable[[int, int], None] = lambda done, of: None
) -> Opinion:
    """Let tshark read captures, each given with its test; those that are gone count as unreadable.

    `tell(done, of)` hears of the progress.  Raises `TsharkError` without tshark.
    """
    names = list(tests)
    listings: dict[str, Listing] = {}
    with Reader() as reader:
        for name, listing in zip(names, reader.read_all([checkout / name for name in names]), strict=True):
            listings[name] = listing
            tell(len(listings), len(names))
    return Opinion(listings, version(), tests)
