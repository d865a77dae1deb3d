"""Settings of all tests: one thread, since the models are tiny, and nothing is fetched."""

from __future__ import annotations

import os

# Before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
