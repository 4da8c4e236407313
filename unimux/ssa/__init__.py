"""How a client gets its specific service address."""
