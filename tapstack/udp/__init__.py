"""UDP, sans-I/O (RFC 768, RFC 8200 §8.1)."""
