"""The multicast listener: MLDv2 with a fall-back to MLDv1 (RFC 3810, RFC 2710, RFC 3590).

Groups are counted by their users: two addresses with the same last 24 bits share one solicited-node group, which is
joined with the first and left with the last (UM-ADDR-7).  Nobody here filters by source, so a membership is always
EXCLUDE {} and its absence INCLUDE {}.

A change is reported at once and `mld_robustness` times in all (or as often as the querier says).  The repetitions of
all recent changes travel together, at a random time within `mld_report_interval`, and say what holds *then*: a group
that was joined and left in between is reported as left.  A query is answered at a random time within the delay that it
names; waiting answers merge.

Where no querier is heard, a snooping switch may forget memberships that nobody asks for any more.  `report_unasked` then repeats
all of them as often as a querier would have asked (RFC 4541 §3); the first query ends it.

The all-nodes group is never reported (RFC 3810 §6).  Reports go out from the link-local address, before there is one
from the unspecified address, and are repeated when it is there (RFC 3590 §4).
"""

from __future__ import annotations

import math
from collections import Counter

from ..events import DropReason
from ..types import ALL_NODES, ALL_ROUTERS, MLDV2_REPORTS, UNSPECIFIED, is_link_local
from ..wire import icmpv6, ipv6, mld
from .interface import Interface

DEFAULT_ROBUSTNESS = 2
DEFAULT_QUERY_INTERVAL = 125.0
QUERIER_GONE = DEFAULT_ROBUSTNESS * DEFAULT_QUERY_INTERVAL + 10.0
"""Seconds without a query after which there is no querier (RFC 3810 §9.5, with the defaults)."""
SOURCES_REMEMBERED = 64
"""Sources of a group-and-source query that an answer names; with more the answer is for the whole group (RFC 3810
§6.2).
"""

_RECORD_LENGTH = 20


class MulticastListener:
    """The groups of the interface."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self.members: Counter[bytes] = Counter()
        """group → how many use it; the all-nodes group, which every node is in, apart"""
        self._ordinary: Counter[bytes] = Counter()
        self._changes: dict[bytes, int] = {}
        """group → how many more times its state is to be reported"""
        self._answers: dict[bytes, tuple[float, tuple[bytes, ...]]] = {}
        """group → when to answer a query about it, and for which sources (none: all)"""
        self._general_due: float | None = None
        self._v1_until = -math.inf
        self._queried_at = -math.inf
        self._robustness = interface.config.mld_robustness
        self._change_timer = interface.timers.timer(self._repeat_changes)
        self._answer_timer = interface.timers.timer(self._answer)
        self._unasked_timer = interface.timers.timer(self._repeat_unasked)

    def __contains__(self, group: bytes) -> bool:
        return group == ALL_NODES or group in self.members

    def __len__(self) -> int:
        return len(self.members)

    # -- membership ------------------------------------------------------------------------------

    def is_ordinary(self, group: bytes) -> bool:
        """Whether an address that is not one-time keeps the group, so that packets to it may be answered
        (UM-ADDR-4).
        """
        return group in self._ordinary

    def join(self, group: bytes, now: float, *, ordinary: bool = False) -> None:
        """One more user of the group; the first one makes the interface a member."""
        if ordinary:
            self._ordinary[group] += 1
        self.members[group] += 1
        if self.members[group] == 1:
            self._changed(group, now)

    def leave(self, group: bytes, now: float, *, ordinary: bool = False) -> None:
        """One user less; with the last one the interface leaves the group."""
        if ordinary:
            self._ordinary[group] -= 1
            if self._ordinary[group] <= 0:
                del self._ordinary[group]
        count = self.members[group] - 1
        if count > 0:
            self.members[group] = count
            return
        del self.members[group]
        self._answers.pop(group, None)
        self._changed(group, now)

    def leave_all(self, now: float) -> None:
        """The host stops: leave everything, in as few reports as fit; nothing is repeated."""
        groups = list(self.members)
        self.members.clear()
        self._ordinary.clear()
        self._changes.clear()
        self._answers.clear()
        self._general_due = None
        self._change_timer.cancel()
        self._answer_timer.cancel()
        self._unasked_timer.cancel()
        self._report_changes(groups, now)

    def report_all(self, now: float) -> None:
        """Report every membership anew: there is a link-local address now, or the link came up."""
        self._changes.update(dict.fromkeys(self.members, self._robustness - 1))
        self._report_changes(list(self.members), now)
        self._arm_changes(now)

    def forget_queriers(self) -> None:
        """The link went away: the next one may have another querier, or none (RFC 3810 §8.2.1: the mode is the link's)."""
        self._v1_until = self._queried_at = -math.inf
        self._robustness = self._interface.config.mld_robustness
        self._answers.clear()
        self._general_due = None
        self._answer_timer.cancel()

    def report_unasked(self, now: float) -> bool:
        """The link seems to have forgotten a group: report all of them now and from time to time, unless a querier does its work.

        False where one does: then it is not forgetfulness.
        """
        if now - self._queried_at < QUERIER_GONE:
            return False
        if not self._unasked_timer.armed:
            self._repeat_unasked(now)
        return True

    def _repeat_unasked(self, now: float) -> None:
        self.report_all(now)
        self._unasked_timer.set(now + DEFAULT_QUERY_INTERVAL)

    def _changed(self, group: bytes, now: float) -> None:
        self._changes[group] = self._robustness - 1
        self._report_changes([group], now)
        self._arm_changes(now)

    def _arm_changes(self, now: float) -> None:
        if any(self._changes.values()):
            if not self._change_timer.armed:
                config = self._interface.config
                self._change_timer.set(now + self._interface.random.uniform(0.0, config.mld_report_interval))
        else:
            self._changes.clear()

    def _repeat_changes(self, now: float) -> None:
        due = [group for group, left in self._changes.items() if left > 0]
        self._changes = {group: self._changes[group] - 1 for group in due if self._changes[group] > 1}
        self._report_changes(due, now)
        self._arm_changes(now)

    # -- queries ---------------------------------------------------------------------------------

    def query(self, src: bytes, hop_limit: int, router_alert: bool, body: memoryview, now: float) -> None:
        """A router asks who listens; raises `WireError` for a malformed body."""
        query = mld.Query.parse(body)
        if not is_link_local(src) or hop_limit != mld.HOP_LIMIT or not router_alert:
            self._interface.counters.drop(DropReason.MLD_INVALID)
            return
        self._queried_at = now
        self._unasked_timer.cancel()
        if query.robustness:
            self._robustness = query.robustness
        if query.version == 1:
            if now >= self._v1_until:
                self._forget_pending()
            self._v1_until = now + DEFAULT_ROBUSTNESS * DEFAULT_QUERY_INTERVAL + query.maximum_response_delay
        due = now + self._interface.random.uniform(0.0, query.maximum_response_delay)
        if query.group == UNSPECIFIED:
            if self._speaks_v1(now):
                for group in self.members:
                    self._plan(group, now + self._interface.random.uniform(0.0, query.maximum_response_delay), ())
            elif self._general_due is None or due < self._general_due:
                self._general_due = due
        elif query.group in self.members:
            self._plan(query.group, due, query.sources if len(query.sources) <= SOURCES_REMEMBERED else ())
        self._arm_answers()

    def heard_report_v1(self, group: bytes, now: float) -> None:
        """Another listener answered for the group: in MLDv1 that is enough (RFC 2710 §4)."""
        if self._speaks_v1(now):
            self._answers.pop(group, None)
            self._arm_answers()

    def _forget_pending(self) -> None:
        """The version changed: what was planned in the other one is void (RFC 3810 §8.2.1)."""
        self._answers.clear()
        self._changes.clear()
        self._general_due = None
        self._change_timer.cancel()

    def _plan(self, group: bytes, due: float, sources: tuple[bytes, ...]) -> None:
        planned = self._answers.get(group)
        if planned is not None:
            due = min(due, planned[0])
            merged = tuple(dict.fromkeys(planned[1] + sources)) if planned[1] and sources else ()
            sources = merged if len(merged) <= SOURCES_REMEMBERED else ()
        self._answers[group] = (due, sources)

    def _arm_answers(self) -> None:
        times = [due for due, _ in self._answers.values()]
        if self._general_due is not None:
            times.append(self._general_due)
        if times:
            self._answer_timer.set(min(times))
        else:
            self._answer_timer.cancel()

    def _answer(self, now: float) -> None:
        records: list[mld.Record] = []
        if self._general_due is not None and self._general_due <= now:
            self._general_due = None
            self._answers.clear()
            records = [mld.Record(mld.RecordType.MODE_IS_EXCLUDE, group) for group in self.members]
        for group, (due, sources) in list(self._answers.items()):
            if due <= now:
                del self._answers[group]
                kind = mld.RecordType.MODE_IS_INCLUDE if sources else mld.RecordType.MODE_IS_EXCLUDE
                records.append(mld.Record(kind, group, sources))
        if self._speaks_v1(now):
            for record in records:
                self._send(record.group, icmpv6.Type.MLD_REPORT_V1, mld.ReportV1(record.group).pack())
        else:
            self._send_records(records)
        self._arm_answers()

    # -- sending ---------------------------------------------------------------------------------

    def _speaks_v1(self, now: float) -> bool:
        return now < self._v1_until

    def _report_changes(self, groups: list[bytes], now: float) -> None:
        """Say of each group whether the interface is a member."""
        if self._speaks_v1(now):
            for group in groups:
                if group in self.members:
                    self._send(group, icmpv6.Type.MLD_REPORT_V1, mld.ReportV1(group).pack())
                else:
                    self._send(ALL_ROUTERS, icmpv6.Type.MLD_DONE_V1, mld.DoneV1(group).pack())
            return
        to = mld.RecordType.CHANGE_TO_EXCLUDE, mld.RecordType.CHANGE_TO_INCLUDE
        self._send_records([mld.Record(to[group not in self.members], group) for group in groups])

    def _send_records(self, records: list[mld.Record]) -> None:
        """As many reports as the records need; each fits the minimum MTU, whatever the path to the routers is."""
        room = ipv6.MINIMUM_MTU - ipv6.HEADER_LENGTH - len(mld.ROUTER_ALERT_HEADER) - 8
        batch: list[mld.Record] = []
        used = 0
        for record in records:
            length = _RECORD_LENGTH + 16 * len(record.sources)
            if batch and used + length > room:
                self._send(MLDV2_REPORTS, icmpv6.Type.MLD_REPORT_V2, mld.ReportV2(tuple(batch)).pack())
                batch, used = [], 0
            batch.append(record)
            used += length
        if batch:
            self._send(MLDV2_REPORTS, icmpv6.Type.MLD_REPORT_V2, mld.ReportV2(tuple(batch)).pack())

    def _send(self, dst: bytes, type: int, body: bytes) -> None:
        interface = self._interface
        if interface.mac is None:
            return
        src = interface.nd_source()
        message = icmpv6.pack(src, dst, type, 0, body)
        length = len(mld.ROUTER_ALERT_HEADER) + len(message)
        header = ipv6.pack_header(src, dst, ipv6.HOP_BY_HOP, length, mld.HOP_LIMIT)
        interface.transmit(interface.multicast_header(dst), [header + mld.ROUTER_ALERT_HEADER + message])
