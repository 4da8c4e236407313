"""What `unimux` ends with: one exit status and, where something went wrong, one sentence.

| status | meaning                                                                                                      |
|--------|--------------------------------------------------------------------------------------------------------------|
| 0      | done                                                                                                         |
| 1      | it ran, and the answer is no: a verdict failed, a transfer stayed incomplete, a program stopped              |
| 2      | the command line or the configuration is wrong                                                               |
| 3      | this machine lacks something: root, a device, a kernel feature, a program, room on a disk, a part of unimux  |
| 4      | the network: refused, unreachable, no answer in time, no such name, no address ready                         |
| 70     | a fault of unimux itself; `--debug` shows where                                                              |
| 130    | interrupted from the keyboard before the work was done; 128 + N by signal N                                  |

Errors are types.  One that this project defines carries the sentence as its text (`unimux.errors`) and is shown as
it is; a type names its status in a class attribute `exit_code`, and without one the answer is no.  Anything else that
reaches the top is status 70.
"""

from __future__ import annotations

import errno
from enum import IntEnum

OWN_PACKAGES = ("tapstack", "unimux", "compat", "scenarios")

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Why what is written finds no place; the error of what is open already, as standard output is, names no file."""


class ExitCode(IntEnum):
    """The exit statuses of `unimux`; see the table above."""

    DONE = 0
    NO = 1
    USAGE = 2
    MACHINE = 3
    NETWORK = 4
    BUG = 70
    INTERRUPTED = 130


def is_ours(error: BaseException) -> bool:
    """Whether the error is of a type that this project defines, so that its text speaks to the user."""
    return type(error).__module__.partition(".")[0] in OWN_PACKAGES


def status(error: BaseException) -> int:
    """The exit status that an error which nobody handled leads to."""
    if isinstance(named := getattr(error, "exit_code", None), int):
        return named
    # By name: the command line loads no stack only to say this.
    if type(error).__name__ == "LinkUnavailable" and is_ours(error):
        return ExitCode.MACHINE
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if is_ours(error):
        return ExitCode.NO
    # An operating system's "no" about a file; about anything else somebody should have turned it into a sentence.
    if isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM):
        return ExitCode.MACHINE
    return ExitCode.BUG


def sentence(error: BaseException) -> str:
    """What the user is told about it, in one line; an error whose text is a clause becomes a sentence.

    >>> from unimux.errors import SetupError
    >>> sentence(SetupError("the generator 'x:Y' cannot be imported"))
    "The generator 'x:Y' cannot be imported."
    >>> sentence(FileNotFoundError(2, "No such file or directory", "site.toml"))
    'site.toml: no such file or directory.'
    >>> sentence(KeyError("x"))
    "This is a fault of unimux (KeyError: 'x'): please report it with what `unimux --debug …` prints."
    """
    code = status(error)
    if code == ExitCode.INTERRUPTED:
        return "Interrupted."
    if code == ExitCode.BUG:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"This is a fault of unimux ({said}): please report it with what `unimux --debug …` prints."
    if isinstance(error, OSError) and not is_ours(error):
        reason = (error.strerror or type(error).__name__).lower()
        return f"{error.filename or 'Standard output, or a file, cannot be written'}: {reason}."
    return as_sentence(" ".join(str(error).split()))


def as_sentence(text: str) -> str:
    """A text that is no sentence yet, as one."""
    return text if text.endswith((".", "?", "!", "…")) else f"{text[:1].upper()}{text[1:]}."
