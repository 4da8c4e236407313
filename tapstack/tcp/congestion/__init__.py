"""Congestion control modules behind one small interface."""

from .base import CongestionControl, Saved, create, known, load_controller, used_up

__all__ = ["CongestionControl", "Saved", "create", "known", "load_controller", "used_up"]
