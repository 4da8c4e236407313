"""Benchmarks P-1 … P-19, each beside its baseline in the same run; `unimux bench` runs them (docs/performance.md)."""
