"""A userspace IPv6 host with TCP and UDP, sans-I/O.

`tapstack` has the mechanisms that one-time addresses need (the UNCERTAIN address state, LISTEN_o,
PCB keys without ports); the policies are `unimux`'s.  Frames and a time go in, frames and a deadline
come out: no clock, no socket, no thread lives below `tapstack.driver`.
"""
