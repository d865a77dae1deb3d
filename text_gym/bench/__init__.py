"""The reward-design benchmark: what becomes of gold when a policy optimises a reward, and how hard it may.

Static accuracy is measured beside it, but nothing is ranked by it.
"""

from __future__ import annotations

from .budgets import AGENT_TASKS, AGENTS
from .compare import compare
from .designs import DESIGNS, Design, choose_designs, load_design
from .matrix import BenchError, bench_agents, bench_rewards
from .report import write_report
from .settings import BEST_OF_N, OPTIMISERS, Settings
from .summary import summarise

__all__ = [
    "AGENTS",
    "AGENT_TASKS",
    "BEST_OF_N",
    "DESIGNS",
    "OPTIMISERS",
    "BenchError",
    "Design",
    "Settings",
    "bench_agents",
    "bench_rewards",
    "choose_designs",
    "compare",
    "load_design",
    "summarise",
    "write_report",
]
