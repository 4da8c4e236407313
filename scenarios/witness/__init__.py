"""The judge of captures: what the wire shows, whatever the stack says of itself.

    from scenarios.witness import CaptureFile, Setup, UnifiedNode, judge

    judgement = judge([CaptureFile(path, where="lan", offload_free=True)], Setup(nodes=(UnifiedNode(...),)))
    judgement.findings      # one Finding per rule: verdict, a sentence with figures, witness frames

This package shares no code with the stack that it judges: captures are read with dpkt and, as a second oracle, tshark.
"""

from __future__ import annotations

from .annotate import annotate
from .capture import load, read_file
from .finding import Finding, Verdict, Witness
from .flows import Connection
from .judge import TITLES, Judgement, judge
from .lifetimes import Interval, Lifetime, Phase
from .pcapng import CaptureError
from .setup import CaptureFile, Explanation, Setup, UnifiedNode
from .verdict import as_json, exit_status, summary, table

__all__ = [
    "TITLES",
    "CaptureError",
    "CaptureFile",
    "Connection",
    "Explanation",
    "Finding",
    "Interval",
    "Judgement",
    "Lifetime",
    "Phase",
    "Setup",
    "UnifiedNode",
    "Verdict",
    "Witness",
    "annotate",
    "as_json",
    "exit_status",
    "judge",
    "load",
    "read_file",
    "summary",
    "table",
]
