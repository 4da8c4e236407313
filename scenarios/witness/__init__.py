"""Verdicts from captures alone.

Nothing here imports `tapstack`, `unimux` or `compat`: what is judged may not judge itself.
"""
