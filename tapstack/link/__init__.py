"""Links: the only place that touches file descriptors, and the wrappers that stand around a link."""
