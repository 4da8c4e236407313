"""The SOCKS front end: SOCKS5, SOCKS4a and HTTP CONNECT on one port, each connection from its own one-time address."""
