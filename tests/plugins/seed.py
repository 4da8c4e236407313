"""The fixtures `seed` and `rng`: randomness that a failed test can be given again.

Every test has its own seed, drawn from the session's and the test's name, so that neither order nor selection changes it.
The session's seed is printed at the top; `--seed N` sets it.  A failed test that took a seed shows it.

Hypothesis draws from the session's seed, too, and no example has to be done within a time: a busy machine is no fault.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("seeded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seeded")

DEFAULT_SEED = 1
_USED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=DEFAULT_SEED, help=f"seed of the session (default: {DEFAULT_SEED})")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("hypothesis_seed") is None:
        config.option.hypothesis_seed = config.getoption("--seed")


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('--seed')} (--seed N sets it)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (seed := item.stash.get(_USED, None)) is not None:
        session = item.config.getoption("--seed")
        report.sections.append(("seed", f"{seed} (of the session: --seed {session})"))
    return report


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's seed, a 64-bit number."""
    session = request.config.getoption("--seed")
    digest = hashlib.sha256(f"{session}\0{request.node.nodeid}".encode()).digest()
    value = int.from_bytes(digest[:8], "big")
    request.node.stash[_USED] = value
    return value


@pytest.fixture
def rng(seed: int) -> random.Random:
    """A generator that starts from this test's seed."""
    return random.Random(seed)
