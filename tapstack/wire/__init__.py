"""Codecs between bytes and values: no state, no clock, no input or output.

Every parser raises `WireError` and nothing else, whatever the bytes are; every `pack` writes what its parser
reads.  Fields keep the units of the wire, so that parse and pack are exact inverses; each unit is named where
the field is.
"""

from __future__ import annotations

from .error import WireError

__all__ = ["WireError"]
