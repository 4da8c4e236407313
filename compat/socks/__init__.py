"""The SOCKS front end: unmodified programs on one-time addresses (RFC 1928, RFC 1929)."""
