"""An unmodified web server, nginx, that serves one folder on the kernel's stack of a namespace."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ..kernel import Namespace, scratch_folder
from .process import is_bound, require_port, run_in, until

_GRACE = 0.3  # seconds; it can miss a SIGTERM that arrives while it starts, and has nothing to save

# One process, so that killing it is the end of it; every path relative to a folder of its own.
_CONFIGURATION = """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log access.log;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen [::]:{port} ipv6only=on;
        root www;
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class WebServer:
    """A running web server: its namespace, its TCP port, and the access log that it writes."""

    namespace: Namespace
    port: int
    access_log: Path

    def url(self, address: str, name: str) -> str:
        """The URL of a file of the served folder at one of the namespace's addresses."""
        port = "" if self.port == 80 else f":{self.port}"
        return f"http://[{address}]{port}/{name}"


@asynccontextmanager
async def web_server(where: Namespace, folder: Path, *, port: int = 80) -> AsyncIterator[WebServer]:
    """Serve the files of `folder` over HTTP on every IPv6 address of a namespace, accepting when the block begins.

    Raises `ProgramMissing`, or `ProgramFailed` when the port is taken.
    """
    require_port(where, "nginx", socket.SOCK_STREAM, port)
    with scratch_folder("nginx") as prefix:
        (prefix / "www").symlink_to(Path.cwd() / folder)  # its name never enters the configuration's syntax
        (prefix / "nginx.conf").write_text(_CONFIGURATION.format(port=port))
        log = prefix / "nginx.log"
        argv = ("nginx", "-p", str(prefix), "-c", "nginx.conf", "-e", "stderr")
        with log.open("wb") as errors:
            async with run_in(where, argv, stderr=errors, grace=_GRACE) as process:
                await until(process, lambda: is_bound(process, "tcp6", port), log)
                yield WebServer(where, port, prefix / "access.log")
