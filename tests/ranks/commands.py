"""What each rank runs in `tests/cli/test_ranks.py`: a command of `text-gym`, in float64.

python -m tests.ranks.commands ARGUMENT...
"""

from __future__ import annotations

import sys

import torch

from text_gym.cli.main import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # of new models
    sys.exit(main(sys.argv[1:]))
