"""The IPv6 host: addresses, neighbours, routers, groups, path MTU, reassembly, ICMPv6."""
