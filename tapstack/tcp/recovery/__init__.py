"""Noticing loss and repairing it: round-trip estimation and loss recovery, each by one RFC."""
