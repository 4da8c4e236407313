"""Unified Multiplex: an own IPv6 address for every connection."""
