"""Carries the traffic of unmodified programs in a namespace over a node's one-time addresses; see `gateway.py`."""
