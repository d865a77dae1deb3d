"""Make the 40 texts of lab 5, and the labels of simulated classmates for those who study alone.

python -m course.lab5_people.classmates

`texts.jsonl` is for `text-gym label`, `classmates.jsonl` for `text-gym labels import`. The classmates rate by
gold, each with a bias and noise of their own, and each misses some texts. Students do not get this file:
finding out who is who is the lab.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from text_gym import TextVectorEnv, load_task
from text_gym.agents import Policy, evaluate
from text_gym.episode import Episode
from text_gym.reward_models import LabelStore, Question
from text_gym.reward_models.labels.formats import export_labels
from text_gym.reward_models.labels.questions import LabelCriterion
from text_gym.reward_models.people.simulated import SimulatedRater, Vices

HERE = Path(__file__).parent
TEXTS, ASKED, SEED = 40, 34, 0
QUALITY = LabelCriterion("quality")  # what `text-gym label --criteria quality` asks for
# Name -> vices in units of gold, whose range is 1, and the gold that gets the lowest and the highest mark.
CLASSMATES: dict[str, tuple[Vices, tuple[float, float]]] = {
    "ada": (Vices(noise=0.05), (0.2, 1.1)),  # strict
    "bob": (Vices(noise=0.05), (-0.3, 0.9)),  # generous
    "cem": (Vices(noise=0.2), (0.0, 1.0)),  # moody
    "dee": (Vices(noise=0.05, inattention=0.2), (0.0, 1.0)),  # does not always read
    "eve": (Vices(noise=0.05, length=0.3), (0.7, 1.9)),  # pays for length
    "fay": (Vices(noise=0.05, hype=0.15), (0.1, 1.1)),  # likes exclamation marks
}


def texts_to_rate() -> list[Episode]:
    """Draw the texts: one for each of the first prompts, by the shipped policy."""
    task = load_task("products")
    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, task.tokenizer, device="cpu")
    env = TextVectorEnv(**task.env_kwargs(prompts=task.prompts[:TEXTS]), shuffle=False)
    return list(evaluate(policy, env, seed=SEED).episodes)


def rate(episodes: list[Episode], store: LabelStore) -> None:
    """Let everybody rate most of the texts."""
    questions = [Question.rating(e.prompt.text, e.completion, (QUALITY,)) for e in episodes]
    items = store.put(questions, overlap=len(CLASSMATES) + 30)
    gold = load_task("products").reward
    for number, (name, (vices, span)) in enumerate(CLASSMATES.items()):
        rater = SimulatedRater(gold, vices, scale=(1, 5), span=span, name=name, seed=SEED + number)
        seen = np.sort(np.random.default_rng([SEED, number]).permutation(len(episodes))[:ASKED])
        for i, mark in zip(seen, rater.rate([episodes[j] for j in seen]), strict=True):
            key = f"classmates-{name}-{i}"
            store.record(items[i], name, {QUALITY.name: int(mark["score"])}, key=key, at=float(i))


def main() -> None:
    """Write both files."""
    episodes = texts_to_rate()
    lines = [json.dumps({"prompt": e.prompt.text, "completion": e.completion}) for e in episodes]
    (HERE / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, LabelStore(Path(folder) / "class.db") as store:
        rate(episodes, store)
        print(f"{len(lines)} texts, {export_labels(store, HERE / 'classmates.jsonl')} labels")


if __name__ == "__main__":
    main()
