"""Benchmarks P-1 … P-18, each beside its baseline in the same run; `unimux bench` runs them (docs/performance.md)."""
