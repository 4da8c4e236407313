"""The sender of a connection that waits, or only receives: it pays for no congestion control."""

from __future__ import annotations

from typing import Any

from .acknowledged import Acknowledged
from .sender import Sender


class IdleSender(Sender):
    """A sender that has sent nothing yet; the first use of `congestion`, `recovery` or `news` makes it a `Sender`.

    It is a class of its own because all attributes of a class with a `__getattr__` are slow, those that are there as well.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """Called for an attribute that is not there yet."""
        if name not in ("congestion", "recovery", "news"):
            raise AttributeError(name)
        self.news = Acknowledged()
        self._outlet.start_congestion()
        self.__class__ = Sender  # type: ignore[assignment]
        return getattr(self, name)

    @property
    def started(self) -> bool:
        return False
