"""The engine under every scenario: parameters, two backends, measurements, repeats and sweeps, the folder that a run leaves.

A scenario needs these names only; docs/writing-a-scenario.md explains them.
"""

from __future__ import annotations

from tapstack.link.impairment import Impairment

from .addressing import OPTIONS, Addressing
from .backend import Host, Streams
from .charts import Bars, Curves, Ecdf, Matrix, Table, number, seconds
from .definition import Scenario, scenario
from .errors import BackendCannot, ParameterError, ScenarioError
from .measure import Summary, poisson, wilson
from .napt import PortTranslator
from .network import Lan
from .parameters import Parameter
from .raw import Raw
from .router import NeighborLimits
from .run import Run
from .talk import echo, exchange, logging_echo, released

__all__ = [
    "OPTIONS",
    "Addressing",
    "BackendCannot",
    "Bars",
    "Curves",
    "Ecdf",
    "Host",
    "Impairment",
    "Lan",
    "Matrix",
    "NeighborLimits",
    "Parameter",
    "PortTranslator",
    "Streams",
    "ParameterError",
    "Raw",
    "Run",
    "Scenario",
    "ScenarioError",
    "Summary",
    "Table",
    "echo",
    "exchange",
    "logging_echo",
    "number",
    "poisson",
    "released",
    "scenario",
    "seconds",
    "wilson",
]
