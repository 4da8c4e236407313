"""Unmodified programs inside network namespaces: servers, daemons, curl and captures, each gone when its block ends."""

from __future__ import annotations

from .curl import Fetch, curl
from .dnsmasq import NameServer, name_server
from .dumpcap import Capture, dumpcap
from .errors import ProgramError, ProgramFailed, ProgramMissing
from .nginx import WebServer, web_server
from .process import PACKAGES, Completed, complete_in, find_program, run_in
from .radvd import Advertisement, router_advertiser

__all__ = [
    "PACKAGES",
    "Advertisement",
    "Capture",
    "Completed",
    "Fetch",
    "NameServer",
    "ProgramError",
    "ProgramFailed",
    "ProgramMissing",
    "WebServer",
    "complete_in",
    "curl",
    "dumpcap",
    "find_program",
    "name_server",
    "router_advertiser",
    "run_in",
    "web_server",
]
