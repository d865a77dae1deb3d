"""Launches a function in several processes by Ray Train, as `torchrun` launches a program.

The processes find each other by the same environment variables (see `world`). Unlike `torchrun` on one
machine, Ray starts all of them anew when one fails, on other machines if need be; what they go on from is
the function's to know.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from text_gym.errors import ConfigError, MissingLibraryError, PeerError
from text_gym.utils.display import harmless
from text_gym.utils.ray_cluster import running_ray

from .world import GRACE, LIMIT, LIMIT_VARIABLE


def launch_by_ray(
    function: Callable[[Mapping[str, Any]], None],
    settings: Mapping[str, Any],
    workers: int,
    restarts: int,
    cuda: bool,
) -> None:
    """Run `function(settings)` in `workers` processes of a Ray cluster, and again if one of them fails.

    The cluster is that of `RAY_ADDRESS`, or a local one.

    Args:
        function: It is imported there by its name, or pickled.
        settings: What it is given, pickled.
        workers: Number of processes, at least 1.
        restarts: Times that all of them are started again after a failure.
        cuda: Give each a GPU, rather than a core alone.

    Raises:
        MissingLibraryError: Ray, or what Ray Train needs, is not installed.
        ConfigError: The cluster has fewer cores or GPUs than there are to be processes.
        PeerError: A process failed once more than `restarts` times; what it said is told.
    """
    ray = running_ray("--engine ray", show=True)
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise MissingLibraryError("--engine ray", "ray.train", "ray[train]") from error
    what = "GPU" if cuda else "CPU"
    there = int(ray.cluster_resources().get(what, 0))
    if there < workers:
        raise ConfigError(f"--workers is {workers}, but the Ray cluster has {there} of {what}")
    limit = float(os.environ.get(LIMIT_VARIABLE) or LIMIT) + GRACE
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    with tempfile.TemporaryDirectory(prefix="text-gym-ray-") as storage:  # the run has a folder of its own
        trainer = TorchTrainer(
            function,
            train_loop_config=dict(settings),
            torch_config=TorchConfig(backend=backend, timeout_s=int(limit)),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=cuda),
            run_config=RunConfig(storage_path=storage, failure_config=FailureConfig(max_failures=restarts)),
        )
        try:
            trainer.fit()
        except Exception as error:  # Ray's own types of errors differ from version to version
            said = harmless(" ".join(str(error).split()), limit=2000)
            raise PeerError(f"the processes of Ray failed, after {restarts} restarts: {said}") from error


def ray_wants_cuda(device: str) -> bool:
    """Return True if processes on this device, as a command line names it, are to have a GPU each."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def rank_zero_says(answer: bool) -> bool:
    """Return the answer of process 0 in every process that was launched; one's own where there is none."""
    if not dist.is_initialized():
        return answer
    found = torch.tensor(int(answer))
    dist.broadcast(found, 0)
    return bool(found)
