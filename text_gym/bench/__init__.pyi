from .analysis.compare import compare as compare
from .analysis.summary import summarise as summarise
from .matrix.budgets import AGENT_TASKS as AGENT_TASKS
from .matrix.budgets import AGENTS as AGENTS
from .matrix.designs import DESIGNS as DESIGNS
from .matrix.designs import Design as Design
from .matrix.designs import choose_designs as choose_designs
from .matrix.designs import load_design as load_design
from .matrix.matrix import BenchError as BenchError
from .matrix.matrix import bench_agents as bench_agents
from .matrix.matrix import bench_rewards as bench_rewards
from .matrix.settings import BEST_OF_N as BEST_OF_N
from .matrix.settings import OPTIMISERS as OPTIMISERS
from .matrix.settings import Settings as Settings
from .report.report import write_report as write_report

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
