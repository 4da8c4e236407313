"""How many bytes of memory an object keeps alive by itself, by CPython's own account of each object's size.

Counted are the object and all that is reached from it, as far as it is plain data (numbers, text, bytes, containers) or an
instance of a class from the given modules.  Everything else is shared with others, like tables, enumerations and the loop,
and is left out.  Equal objects give equal figures, which the memory that the system reports does not.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterable
from enum import Enum

PLAIN = (int, float, bool, str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset, deque)


def footprint(root: object, modules: Iterable[str]) -> int:
    """Bytes kept alive by `root`; modules: the beginnings of the names of those whose instances are its own.

    >>> footprint([b"abc", 1.5], ()) == sys.getsizeof([None, None]) + sys.getsizeof(b"abc") + sys.getsizeof(1.5)
    True
    """
    own = tuple(modules)
    seen = {id(root)}
    waiting = [root]
    total = 0
    while waiting:
        each = waiting.pop()
        total += sys.getsizeof(each)
        for other in gc.get_referents(each):
            ours = isinstance(other, PLAIN) or (own and type(other).__module__.startswith(own))
            if ours and not isinstance(other, Enum) and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)
    return total
