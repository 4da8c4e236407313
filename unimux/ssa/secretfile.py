"""The file that a client and a server share (UM-GEN-5): one line of text, readable by its owner only."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from pathlib import Path

from ..errors import SetupError
from ..generators import MIN_SECRET

MAX_SECRET = 1024
_NEW_SECRET = 32


def write_secret(path: Path) -> None:
    """Make a new secret of 256 bits; raises `SetupError` where the file exists or cannot be written."""
    text = base64.b64encode(secrets.token_bytes(_NEW_SECRET)) + b"\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise SetupError(f"{path} exists: a secret is never overwritten, choose another name.") from None
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}.") from error
    with os.fdopen(handle, "wb") as file:
        file.write(text)


def read_secret(path: Path) -> bytes:
    """The secret in a file, white space around it removed.

    Raises `SetupError` for a file that is missing, too short or long, or that others may read.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(MAX_SECRET + 1).strip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SetupError(
            f"The secret {path} cannot be read ({reason}): make one with `unimux ssa keygen {path}`."
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SetupError(f"Others may read the secret {path}: take that away with `chmod 600 {path}`.")
    if not MIN_SECRET <= len(secret) <= MAX_SECRET:
        raise SetupError(
            f"The secret in {path} has {len(secret)} bytes: it needs {MIN_SECRET} to {MAX_SECRET}, "
            "or who sees one address finds it by trial."
        )
    return secret


def read_key(path: str) -> bytes:
    """A TSIG key: base64 in a file that is as private as a secret; raises `SetupError`."""
    try:
        return base64.b64decode(read_secret(Path(path)), validate=True)
    except ValueError as error:
        raise SetupError(
            f"{path} holds no key in base64 ({error}): make one with `unimux ssa keygen {path}`."
        ) from None
