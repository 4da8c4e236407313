"""Congestion control modules behind one small interface."""
