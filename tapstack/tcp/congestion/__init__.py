"""Congestion control modules behind one small interface."""

from . import bbr as bbr
from . import cubic as cubic
from . import newreno as newreno
from .base import CongestionControl, Saved, create, known, register

__all__ = ["CongestionControl", "Saved", "create", "known", "register"]
