from .analysis.compare import compare as compare
from .analysis.summary import summarise as summarise
from .matrix.designs import DESIGNS as DESIGNS
from .matrix.designs import Design as Design
from .matrix.matrix import BenchError as BenchError
from .matrix.matrix import bench_agents as bench_agents
from .matrix.matrix import bench_rewards as bench_rewards
from .matrix.settings import Settings as Settings
from .report.report import write_report as write_report

__all__ = [
    "DESIGNS",
    "BenchError",
    "Design",
    "Settings",
    "bench_agents",
    "bench_rewards",
    "compare",
    "summarise",
    "write_report",
]
