"""Defects in recovery, windows and TIME-WAIT that must be noticed where a kernel is the peer: their watchers need root."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation, Put

_RECOVERY = "tests/real/tcp/test_kernel_recovery.py"
_WINDOWS = "tests/real/tcp/test_kernel_windows.py"
_LOST = f"{_RECOVERY}::test_what_is_lost_is_repeated_once_it_is_reported_and_nothing_else"
_SELECTIVE = "tapstack.tcp.recovery.selective:SelectiveRecovery"
_NEWRENO = "tapstack.tcp.recovery.newreno:NewRenoRecovery"
_RACK = "tapstack.tcp.recovery.rack:Rack"

MUTATIONS = (
    Mutation(
        "no-back-off",
        "a time-out is not doubled after it fired",
        ("ST-TCP-4", "MUST-19"),
        (f"{_RECOVERY}::test_while_nothing_arrives_the_first_segment_is_repeated_at_doubled_intervals",),
        (Edit("tapstack.tcp.recovery.rto:RttEstimator.back_off", "self.rto * 2", "self.rto"),),
    ),
    Mutation(
        "every-time-out-is-loss",
        "nobody asks whether a time-out was spurious, and everything in flight is sent again",
        ("ST-TCP-4",),
        (f"{_RECOVERY}::test_after_a_time_out_that_was_none_only_the_first_segment_was_repeated",),
        (Edit(f"{_SELECTIVE}.on_timeout", "self.phase is Phase.OPEN or self._frto.under_way", "False"),),
    ),
    Mutation(
        "reports-change-nothing",
        "what was delivered later does not show that something is lost",
        ("ST-TCP-5", "ST-TCP-6"),
        (_LOST,),
        (Edit(f"{_RACK}.update", "if latest > self.latest:", "if latest < self.latest:"),),
    ),
    Mutation(
        "all-sent-again",
        "one hole, and everything from there on is sent again",
        ("ST-TCP-3", "ST-TCP-5"),
        (_LOST,),
        (Edit(f"{_SELECTIVE}._notice", "self._begin_undo()", "self._begin_undo(); sender.mark_all_lost()"),),
    ),
    Mutation(
        "one-hole-a-recovery",
        "without SACK a partial acknowledgement does not show the next hole",
        ("ST-TCP-5",),
        (_LOST,),
        (Edit(f"{_NEWRENO}.on_ack", "not first.retransmitted or first.mark == LOST", "False"),),
    ),
    Mutation(
        "no-probe",
        "a lost tail waits for the time-out",
        ("ST-TCP-6",),
        (f"{_RECOVERY}::test_a_lost_tail_is_found_by_repeating_its_last_segment",),
        (Edit(f"{_SELECTIVE}._arm_probe", "if not sender.in_flight or", "if True or"),),
    ),
    Mutation(
        "no-reordering-window",
        "what was overtaken is lost, however often only its order changed",
        ("ST-TCP-6",),
        (f"{_RECOVERY}::test_what_is_late_by_less_than_the_reordering_window_is_not_repeated",),
        (Edit(f"{_RACK}.reordering_window", "self.multiplier * estimate.minimum_rtt / 4", "0.0"),),
    ),
    Mutation(
        "missing-is-reported",
        "a SACK block begins a segment before what has arrived",
        ("ST-TCP-3",),
        (f"{_RECOVERY}::test_a_kernel_that_sends_hears_exactly_what_is_missing",),
        (Edit("tapstack.tcp.receiver:Receiver._block", "return run.start,", "return run.start - 1448,"),),
    ),
    Mutation(
        "begins-with-twenty",
        "the first window is of twenty segments",
        ("ST-TCP-5",),
        (f"{_WINDOWS}::test_ten_segments_begin_and_the_flight_grows_by_what_is_acknowledged",),
        (Put("tapstack.tcp.congestion.base:INITIAL_WINDOW_SEGMENTS", "20"),),
    ),
    Mutation(
        "slow-start-hurries",
        "slow start adds twice what is acknowledged",
        ("ST-TCP-5",),
        (f"{_WINDOWS}::test_ten_segments_begin_and_the_flight_grows_by_what_is_acknowledged",),
        (Edit("tapstack.tcp.congestion.newreno:NewReno.on_ack", "min(acked,", "min(2 * acked,"),),
    ),
    Mutation(
        "never-paced",
        "a window that is to be paced leaves at once",
        ("ST-TCP-5",),
        (f"{_WINDOWS}::test_a_paced_window_leaves_at_its_rate",),
        (Edit("tapstack.tcp.congestion.base:CongestionControl.on_delivery", "self.paced and", "not self.paced and"),),
    ),
    Mutation(
        "loss-costs-nothing",
        "CUBIC keeps its window after a loss",
        ("ST-TCP-5",),
        (f"{_WINDOWS}::test_a_loss_leaves_less_in_flight_which_then_grows_slowly",),
        (Edit("tapstack.tcp.congestion.cubic:Cubic.on_congestion", "min(in_flight, self.cwnd) * BETA", "self.cwnd"),),
    ),
    Mutation(
        "loss-costs-newreno-nothing",
        "NewReno keeps its window after a loss",
        ("ST-TCP-5",),
        (f"{_WINDOWS}::test_a_loss_leaves_less_in_flight_which_then_grows_slowly",),
        (Edit("tapstack.tcp.congestion.newreno:NewReno.on_congestion", "in_flight // 2", "in_flight"),),
    ),
    Mutation(
        "window-stays",
        "the receive buffer does not grow with what is read",
        ("ST-TCP-12",),
        (f"{_WINDOWS}::test_the_window_grows_while_its_program_reads_and_closes_when_it_does_not",),
        (Edit("tapstack.tcp.buffers:_widen", "if wanted > receiver.capacity:", "if False:"),),
    ),
    Mutation(
        "window-unbounded",
        "the receive buffer grows beyond its bound",
        ("ST-TCP-12",),
        (f"{_WINDOWS}::test_the_window_grows_while_its_program_reads_and_closes_when_it_does_not",),
        (Edit("tapstack.tcp.buffers:_widen", "receiver.capacity_maximum, receiver.largest_window", "1 << 40"),),
    ),
    Mutation(
        "never-reopened",
        "TIME-WAIT is not reopened by a newer SYN",
        ("ST-TCP-13",),
        (f"{_WINDOWS}::test_a_newer_syn_on_the_same_ports_reopens_what_waits",),
        (Edit("tapstack.tcp.timewait:may_reopen", "or not segment.is_syn", "or segment.is_syn"),),
    ),
    Mutation(
        "reopened-by-the-old",
        "any SYN reopens TIME-WAIT",
        ("ST-TCP-13",),
        (f"{_WINDOWS}::test_an_old_syn_is_answered_by_an_acknowledgement",),
        (Edit("tapstack.tcp.timewait:may_reopen", "value > recent", "value != recent"),),
    ),
    Mutation(
        "repetitions-uncounted",
        "statistics do not tell what was sent again",
        ("ST-TCP-14",),
        (f"{_WINDOWS}::test_statistics_count_what_the_capture_counts",),
        (Edit("tapstack.tcp.statistics:collect", "retransmissions=sender.retransmissions", "retransmissions=0"),),
    ),
)
