"""Two network namespaces as two hosts: `torchrun` and Ray train across them; what is sent is counted.

    python benchmarks/hosts.py [--json FILE]        # Linux, as root; with ray[train]

Each host has one process, one thread, and one end of a virtual cable (veth). First both play iterations of
PPO and of GRPO on the products task, and what the cable carried is compared with a formula. Then they run
`text-gym train` together, started by `torchrun`, and again by a Ray cluster of one node a host, with rewards
scored by Ray actors; the kernel is asked which process is on which host. Both runs must end with the same
weights. The cable is one machine's memory: it says nothing about the speed of networks.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import Row, machine
from rich.console import Console
from rich.table import Table

from text_gym import TextVectorEnv, load_task
from text_gym.agents import Policy
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.models.world import meeting
from text_gym.utils.json_files import write_json

HOSTS = ("text-gym-a", "text-gym-b")
PORT, EPISODES, ITERATIONS = 29507, 64, 2
SETTINGS: dict[str, dict[str, Any]] = {"ppo": {"target_kl": None}, "grpo": {"group_size": 8}}
TRAIN = f"-m text_gym train --task products --algorithm grpo --iterations 3 --episodes {EPISODES}"
ADDRESS = "10.77.0.1:6399"  # of the Ray cluster
KINDS = ("RayTrainWorker", "_Server")  # what Ray calls a process that learns, and an actor of `RemoteReward`
BY_RAY = "--engine ray --workers 2 --reward-actors 2"  # two actors for each of the two processes
JOINING = 120  # seconds in which both nodes have to be in the Ray cluster


@dataclass(frozen=True)
class Options:
    """Train on two hosts.

    Args:
        json: File for the rows.
    """

    json: Path | None = None


def main() -> None:
    """Print what was sent, and how the run ended."""
    options = tyro.cli(Options)
    os.environ["RAY_AUTH_MODE"] = "disabled"  # a token would have to be shared, and nobody else is here
    with tempfile.TemporaryDirectory() as place, hosts():
        file = Path(place) / "sent.json"
        launch([__file__, "--worker", str(file)])
        rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))
        by_torchrun, by_ray = Path(place) / "by_torchrun", Path(place) / "by_ray"
        said = launch([*TRAIN.split(), "--out", str(by_torchrun)])
        with ray_cluster(Path(place)):
            where = watch([*TRAIN.split(), *BY_RAY.split(), "--out", str(by_ray)], Path(place) / "said")
        weights = ((run / "policy" / "model.safetensors").read_bytes() for run in (by_torchrun, by_ray))
        same = len(set(weights)) == 1
        summary = json.loads((by_ray / "summary.json").read_text(encoding="utf-8"))
    missing = [f"{host}: {kind}" for host in HOSTS for kind in KINDS if not where[host].get(kind)]
    if missing or not same:
        raise SystemExit(f"Ray's processes that were not found: {missing}; same weights: {same}")
    table = Table("algorithm", "sent by each, MB an iteration", "by formula", "of it gradients")
    for row in rows:
        table.add_row(row["algorithm"], *(f"{row[k] / 1e6:.2f}" for k in ("sent", "formula", "gradients")))
    console = Console()
    console.print(table)
    console.print(said[0][-600:], markup=False, highlight=False)
    console.print(f"host b printed {len(said[1])} characters")
    console.print(f"by Ray: {summary['iterations']} iterations, to the same weights; processes: {where}")
    if options.json is not None:
        ray = {"iterations": summary["iterations"], "processes": where, "same_weights_as_torchrun": same}
        write_json(options.json, {"machine": machine(), "episodes": EPISODES, "rows": rows, "ray": ray})


@contextmanager
def hosts() -> Iterator[None]:
    """Make two namespaces, joined by a cable with an address at each end."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", "tg0", "netns", HOSTS[0], "type", "veth", "peer", "tg0", "netns", HOSTS[1])
        for number, host in enumerate(HOSTS, 1):
            ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", "tg0")
            for device in ("tg0", "lo"):
                ip("-n", host, "link", "set", device, "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], check=False)


def launch(arguments: list[str]) -> list[str]:
    """Start `torchrun` on both hosts; return what each printed."""
    started = []
    for number, host in enumerate(HOSTS, 1):
        torchrun = "-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d"
        meet = f"--rdzv-id {PORT} --rdzv-endpoint 10.77.0.1:{PORT} --local-addr 10.77.0.{number}"
        meet += f" --rdzv-conf is_host={int(number == 1)}"
        command = ["ip", "netns", "exec", host, sys.executable, *torchrun.split(), *meet.split(), *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "tg0"}
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("\n".join(said))
    return said


def inside(host: str, module: str) -> list[str]:
    """Return the beginning of a command that runs a module of Python on a host."""
    return ["ip", "netns", "exec", host, sys.executable, "-m", *module.split()]


@contextmanager
def ray_cluster(place: Path) -> Iterator[None]:
    """Start a Ray cluster: a node of one core on each host, the head on the first one.

    Args:
        place: A folder for what the nodes print and keep.
    """
    small = "--num-cpus 1 --object-store-memory 100000000 --disable-usage-stats --block"
    head = f"--head --port {ADDRESS.split(':')[1]} --include-dashboard false --temp-dir {place}/ray"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "tg0"}
    nodes = []
    try:
        for number, host in enumerate(HOSTS, 1):
            role = head if number == 1 else f"--address {ADDRESS}"
            own = f"ray.scripts.scripts start {role} --node-ip-address 10.77.0.{number} {small}"
            with (place / host).open("w") as said:
                nodes.append(subprocess.Popen(inside(host, own), env=env, stdout=said, stderr=said))
            wait_for_nodes(number)
        yield
    finally:
        for host in HOSTS:  # nobody but these nodes and their workers is in the namespaces
            found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True)
            for pid in map(int, found.stdout.split()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for node in nodes:
            node.wait()


def wait_for_nodes(wanted: int) -> None:
    """Wait until so many nodes are in the Ray cluster."""
    asking = inside(HOSTS[0], f"ray.scripts.scripts status --address {ADDRESS}")
    end = time.monotonic() + JOINING
    while time.monotonic() < end:
        said = subprocess.run(asking, capture_output=True, text=True, check=False).stdout
        if len(re.findall(r"^ 1 node_", said, re.MULTILINE)) == wanted:
            return
        time.sleep(1)
    raise SystemExit(f"{wanted} nodes were not in the Ray cluster within {JOINING} s: {said}")


def watch(arguments: list[str], file: Path) -> dict[str, dict[str, int]]:
    """Run a program on the first host, and note which of Ray's processes are on which host meanwhile.

    Args:
        arguments: Of Python.
        file: For what the program prints.

    Returns:
        By host the number of processes by kind, as the kernel knows them.
    """
    command = [*inside(HOSTS[0], arguments[1]), *arguments[2:]]
    seen: dict[str, dict[str, set[int]]] = {host: {} for host in HOSTS}
    with file.open("w") as said:
        program = subprocess.Popen(
            command, env={**os.environ, "RAY_ADDRESS": ADDRESS}, stdout=said, stderr=said
        )
        while program.poll() is None:
            for host in HOSTS:
                pids = subprocess.run(
                    ["ip", "netns", "pids", host], capture_output=True, text=True, check=True
                )
                for pid in map(int, pids.stdout.split()):
                    with suppress(OSError):
                        title = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
                        if (found := re.match(r"ray::(\w+)", title)) and found[1] in KINDS:
                            seen[host].setdefault(found[1], set()).add(pid)
            time.sleep(0.2)
    if program.returncode:
        raise SystemExit(file.read_text(encoding="utf-8"))
    return {host: {kind: len(pids) for kind, pids in found.items()} for host, found in seen.items()}


def sent_bytes() -> int:
    """Read how many bytes this host has sent through the cable."""
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.strip().startswith("tg0:"))
    return int(line.split(":")[1].split()[8])


def _count(steps: list[float], _: object, row: dict[str, float]) -> None:
    """Note the optimizer steps of an iteration."""
    steps.append(row["updates"])


def worker(file: Path) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    task = load_task("products")
    assert task.policy is not None
    rows: list[Row] = []
    with meeting("cpu") as world:
        assert world is not None
        for algorithm, settings in SETTINGS.items():
            policy = Policy.from_pretrained(task.policy, device="cpu")
            env = TextVectorEnv(task=task, num_envs=EPISODES, numbering="global")
            kind = load_algorithm(algorithm)
            agent = kind(policy, env, kind.config_class(iterations=ITERATIONS, **settings))
            agent.join(world)
            steps: list[float] = []
            world.sum(torch.zeros(1))
            before = sent_bytes()
            agent.learn(callback=partial(_count, steps))
            sent = (sent_bytes() - before) / ITERATIONS
            weights = sum(p.numel() for p in agent.parameter_groups()[0]["params"])
            gradients = 4 * weights * sum(steps) / ITERATIONS
            batch = env.batch
            width = policy.value_head.in_features if agent.reads_states else 0
            # Tokens; log-probabilities, values and those of the reference; states. Two ranks send each once.
            played = EPISODES * (8 * batch.tokens.shape[1] + 4 * batch.max_tokens * (3 + width))
            row = {
                "algorithm": algorithm,
                "sent": sent,
                "formula": gradients + played,
                "gradients": gradients,
            }
            rows.append({**row, "weights": weights, "steps": sum(steps) / ITERATIONS})
        if world.rank == 0:
            file.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
    else:
        main()
