"""Kill a labelling process again and again; prints what became of the labels it was told were saved.

A program of its own: it forks, and a process that forks should have no threads.
Usage: label_kills.py STORE KILLS SEED
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time

from text_gym.errors import StoreError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import Question

BATCH = 12


def label_for_ever(path: str, trial: int, pipe: int) -> None:
    """What a rater does: claim, answer, now and then skip or take back; tells the parent what was saved."""
    rng = random.Random(f"{trial}")
    with LabelStore(path, check=False) as store:  # `main` checks all of it, now and then
        for n in range(10_000):
            key = f"{trial}-{n}"
            item = store.claim("ada")
            if item is None or rng.random() < 0.1:
                done = store.undo("ada", key=key)
            elif rng.random() < 0.1:
                done = store.skip(item.id, "ada", key=key)
            else:
                values = {f.name: rng.choice(f.options).value for f in item.question.fields}
                done = store.record(item.id, "ada", values, latency=rng.random(), key=key)
            if done is not None:
                os.write(pipe, f"{key} {done.hash}\n".encode())


def one_trial(path: str, trial: int, rng: random.Random) -> list[list[str]]:
    """Start a rater, kill it at a random moment; the keys and hashes that it was told were saved."""
    with LabelStore(path, check=False) as store:
        store.put([Question.rating(f"prompt {trial}-{i}", "text\0\udcff") for i in range(BATCH)])
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            label_for_ever(path, trial, write)
        finally:
            os._exit(1)
    os.close(write)
    time.sleep(rng.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = b""
    while select.select([read], [], [], 0)[0] and (more := os.read(read, 65_536)):
        told += more
    os.close(read)
    return [line.split() for line in told.decode().splitlines()]


def main(path: str, kills: int, seed: int) -> dict[str, int]:
    """Counts of kills, rows, labels acknowledged, lost, doubled, and saved without the rater being told."""
    rng = random.Random(seed)
    told: dict[str, str] = {}
    found = {"kills": kills, "untold": 0, "failed": 0}
    for trial in range(kills):
        told.update(one_trial(path, trial, rng))  # type: ignore[arg-type]
        if trial % 100 == 99 or trial == kills - 1:
            with LabelStore(path, check=False) as store:
                try:
                    store.verify()
                except StoreError:
                    found["failed"] += 1
    with LabelStore(path) as store:
        rows = [(label.key, label.hash) for label in store.labels(all_rows=True)]
    keys = [key for key, _ in rows]
    saved = dict(rows)
    found["acknowledged"] = len(told)
    found["lost"] = sum(saved.get(key) != value for key, value in told.items())
    found["doubled"] = len(keys) - len(set(keys))
    found["untold"] = len(keys) - len(told)
    found["rows"] = len(rows)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
