"""The one error that every parser of this package raises."""

from __future__ import annotations


class WireError(ValueError):
    """Bytes that are not a well-formed packet of the kind asked for."""
