"""Noticing loss and repairing it: round-trip estimation and loss recovery, each by one RFC."""

from .base import Phase, Recovery
from .newreno import NewRenoRecovery
from .selective import SelectiveRecovery

__all__ = ["NewRenoRecovery", "Phase", "Recovery", "SelectiveRecovery"]
