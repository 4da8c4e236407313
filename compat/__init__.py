"""How today's programs and kernels meet one-time addresses: namespaces, relays and front ends."""
