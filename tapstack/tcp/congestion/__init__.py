"""Congestion control modules behind one small interface."""

from . import newreno as newreno
from .base import CongestionControl, create, register

__all__ = ["CongestionControl", "create", "register"]
