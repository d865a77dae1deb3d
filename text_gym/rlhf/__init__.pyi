from .config import RLHFConfig as RLHFConfig
from .cycle import rlhf as rlhf

__all__ = ["RLHFConfig", "rlhf"]
