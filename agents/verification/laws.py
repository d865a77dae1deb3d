"""The laws that `check_agent` tries: each says that it holds, or what is broken and what to mend.

They look from outside: at weights, at the gradients of an optimizer's steps, and at what is saved.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.algorithms.agent import Agent
from text_gym.agents.sampling.rollout import Rollout
from text_gym.episode import Episode
from text_gym.errors import CheckError, ConfigError
from text_gym.models.runtime import fingerprint
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tasks.enumerable import (
    enumerable,
    kl_divergence,
    optimal_policy,
    total_variation,
    trajectories,
)

from .exact import trajectory_log_probs
from .trial import (
    LEARNING_RATE,
    Trial,
    cosine,
    flat,
    global_seed,
    gradient_of_update,
    lasting_state,
    relative_change,
    snapshot,
    trained,
)

ITERATIONS, LARGER, BETA = 150, 3, 0.5  # of the closed form: batches, how much larger they are, and β
CLOSE, ENOUGH = 0.05, 0.3  # total variation that counts as reached; least share of the way upwards
BUMP, TEXTS = 3.0, 8  # how much a text's reward is changed, and of how many texts


@dataclass(frozen=True)
class Law:
    """A law and whether the agent keeps it.

    Args:
        name: In a few words.
        holds: Whether it holds.
        said: What was seen and, where it is broken, what to mend.
    """

    name: str
    holds: bool
    said: str


def every_law(trial: Trial) -> list[Law]:
    """Try all laws in the order of the report; an error the agent raises breaks the law being tried."""
    tries: dict[str, Callable[[Trial], str]] = {
        "learning rate": learning_rate,
        "seeds": seeds,
        "abstention": abstention,
        "padding": padding,
        "credit": credit,
        "save and load": save_and_load,
        "closed form": closed_form,
    }
    found = []
    for name, law in tries.items():
        try:
            found.append(Law(name, True, law(trial)))
        except CheckError as error:
            found.append(Law(name, False, str(error)))
        except Exception as error:
            found.append(Law(name, False, f"the agent raised {type(error).__name__}: {error}"))
    return found


def learning_rate(trial: Trial) -> str:
    """At learning rate 0 no weight of the policy changes; at another one some do.

    Raises:
        CheckError: It is broken.
    """
    for rate in (0.0, LEARNING_RATE):
        agent = trial.agent(learning_rate=rate)
        before = fingerprint(agent.policy)
        agent.learn(2)
        changed = [
            name
            for (name, _), old, new in zip(
                agent.policy.named_parameters(), before, fingerprint(agent.policy), strict=True
            )
            if old != new
        ]
        if changed and not rate:
            raise CheckError(
                f"with learning_rate=0 the policy changes ({changed[0]}); take steps by self.step(loss), "
                "whose optimizer follows config.learning_rate and its schedule"
            )
        if rate and not changed:
            raise CheckError(f"with learning_rate={rate} no weight changes; call self.step(loss) in update")
    return f"with learning_rate=0 no weight changes, with {LEARNING_RATE:g} some do"


def seeds(trial: Trial) -> str:
    """Everything follows from `config.seed`: nothing from global generators or from other agents.

    Raises:
        CheckError: It is broken.
    """

    def run(world: int, seed: int = trial.seed) -> Any:
        with global_seed(world):
            return snapshot(trial.agent(seed=seed).learn(3))

    kept = lasting_state(trial.agent_class)
    first = run(1)
    now = lasting_state(trial.agent_class)
    changed = [name for name, value in now.items() if kept.get(name, value) != value]
    if changed:
        raise CheckError(
            f"{changed[0]} changes while an agent learns and outlives it, so that the next agent in this "
            "process learns otherwise; keep it in self and in state_dict, and seed generators by config.seed"
        )
    if run(1) != first:
        raise CheckError(
            "the same seed gives other weights the second time: something outlives the agent (a class "
            "attribute, a variable of a module), or a generator has no seed"
        )
    if run(2) != first:
        raise CheckError(
            "the same seed gives other weights in another global random state: something draws from "
            "torch's, numpy's or random's global generator; draw from one seeded by config.seed and "
            "self.iteration"
        )
    pair = [trial.agent(), trial.agent(seed=trial.seed + 1)]
    for _ in range(3):
        for agent in pair:
            agent.learn(1)
    if snapshot(pair[0]) != first:
        raise CheckError(
            "an agent learns otherwise beside another one: they share something; keep it in self"
        )
    if run(1, trial.seed + 1) == first:
        raise CheckError("another config.seed gives the same weights: nothing depends on it")
    return "the same bits for the same seed, in any global random state and beside another agent"


class _Choosy(RewardSource):
    """The table's reward; no opinion on every third text or so."""

    name = "choosy"
    abstains = True

    def __init__(self, table: RewardSource) -> None:
        self.table = table

    def score(self, episodes: Sequence[Episode]) -> list[float | None]:
        values = self.table(episodes).values.tolist()
        return [
            None if int(e.completion_ids.sum()) % 3 == 1 else v for e, v in zip(episodes, values, strict=True)
        ]


def abstention(trial: Trial) -> str:
    """Texts that were not judged, and texts that were cut and are no samples, teach nothing.

    Raises:
        CheckError: It is broken.
    """
    options: dict[str, Any] = {"limit": "truncate", "reward": _Choosy(trial.task.reward)}
    batch = trial.agent(**options).collect()
    unjudged = ~batch.scored
    assert bool(unjudged.any())
    assert bool(batch.scored.any())
    whole = gradient_of_update(trial.still(**options), batch)
    garbled = gradient_of_update(trial.still(**options), _garbled(batch, unjudged))
    mend = "begin update with `batch = batch.only(batch.scored)`"
    if relative_change(whole, garbled) > 1e-4:
        raise CheckError(
            "texts that the reward did not judge, or that the limit cut, teach something: other numbers in "
            f"their rows give another gradient (by {100 * relative_change(whole, garbled):.0f} %); {mend}"
        )
    states = []
    for played in (batch, _garbled(batch, unjudged)):
        agent = trial.still(**options)
        agent.update(played)
        states.append(snapshot(agent)[1])
    if states[0] != states[1]:
        raise CheckError(f"what the agent remembers depends on texts that were not judged; {mend}")
    without = gradient_of_update(trial.still(**options), batch.only(batch.scored))
    if relative_change(without, whole) > 0.2:
        raise CheckError(
            "texts that were not judged count: without them the gradient is another one (by "
            f"{100 * relative_change(without, whole):.0f} %), as if they were paid 0 or divided by; {mend}"
        )
    return f"{int(unjudged.sum())} of {len(unjudged)} texts without a judgement change nothing"


def _garbled(batch: Rollout, rows: Tensor) -> Rollout:
    """The batch with other numbers where these rows are real."""
    inside = rows[:, None] & batch.mask
    noise = torch.full_like(batch.rewards, 1e3)
    columns: dict[str, Any] = {
        name: torch.where(inside, noise, getattr(batch, name)) for name in ("rewards", "values", "log_probs")
    }
    values = np.where(rows.cpu().numpy(), 1e3, batch.scores.values)
    scores = Rewards(values, None, batch.scores.terms, batch.scores.abstained)
    states = None if batch.states is None else torch.where(rows[:, None, None], 9.0, batch.states)
    return replace(batch, **columns, scores=scores, states=states)


def padding(trial: Trial) -> str:
    """Padding: what follows a text's end in a batch is no part of the text.

    Raises:
        CheckError: It is broken.
    """
    batch = trial.agent().collect()
    ends = (batch.starts + batch.lengths)[:, None]
    after = torch.arange(batch.tokens.shape[1], device=ends.device) >= ends
    assert bool(after.any())
    other = torch.where(after, (batch.tokens + 1) % trial.task.tokenizer.vocab_size, batch.tokens)
    a = gradient_of_update(trial.still(), batch)
    b = gradient_of_update(trial.still(), replace(batch, tokens=other))
    if relative_change(a, b) > 1e-4:
        raise CheckError(
            f"padding is learnt from: other ids after the texts' ends change the gradient by "
            f"{100 * relative_change(a, b):.0f} %; multiply what you sum over tokens by batch.mask, which is "
            "(B, T) and True for the tokens of completions"
        )
    return "ids after the texts' ends change nothing"


def credit(trial: Trial) -> str:
    """A text that is paid more becomes likelier, and it more than the others.

    Raises:
        CheckError: It is broken.
    """
    agent = trial.agent()
    batch = agent.collect()
    weights = trained(agent.policy)
    rows: dict[tuple[int, ...], int] = {}
    for i, episode in enumerate(batch.episodes):
        rows.setdefault(tuple(episode.completion_ids.tolist()), i)
    texts = list(rows.values())
    towards = torch.stack([_towards(agent, batch.episodes[i], weights) for i in texts])  # (texts, W)
    own, first = [], 0
    for place, row in enumerate(texts[:TEXTS]):
        more, less = (gradient_of_update(trial.still(), _paid(batch, row, x)) for x in (BUMP, -BUMP))
        cosines = [cosine(more - less, direction) for direction in towards]
        own.append(cosines[place])
        first += max(cosines) == cosines[place]
    mean = sum(own) / len(own)
    if not any(own):
        raise CheckError("rewards change nothing in an update; learn from batch.rewards")
    if mean < -0.2:
        raise CheckError(
            f"a text that is paid more becomes less likely (cosine {mean:.2f} to its log-probability): the "
            "sign is wrong; the loss is minus advantage times log-probability, since steps go down"
        )
    if first < len(own) / 2:
        raise CheckError(
            f"a text's reward moves other texts more than itself (in {len(own) - first} of {len(own)} "
            f"texts; cosine {mean:.2f}): is each row paid its own reward?"
        )
    return f"a text that is paid more becomes likelier (cosine {mean:.2f}), {first} of {len(own)} most of all"


def _towards(agent: Agent[Any], episode: Episode, weights: dict[str, Tensor]) -> Tensor:
    """Return the direction that makes a text likelier, `(W,)`."""
    log_prob = trajectory_log_probs(agent.policy, [episode], temperature=agent.config.temperature)
    gradients = torch.autograd.grad(log_prob.sum(), list(weights.values()), allow_unused=True)
    known = {n: g for n, g in zip(weights, gradients, strict=True) if g is not None}
    return flat(known, weights)


def _paid(batch: Rollout, row: int, more: float) -> Rollout:
    """The batch with another reward of one text."""
    rewards, values = batch.rewards.clone(), batch.scores.values.copy()
    rewards[row, int(batch.lengths[row]) - 1] += more
    values[row] += more
    return replace(batch, rewards=rewards, scores=replace(batch.scores, values=values))


def save_and_load(trial: Trial) -> str:
    """An agent that is saved and loaded goes on as it would have.

    Raises:
        CheckError: It is broken.
    """
    agent = trial.agent()
    agent.learn(3)
    with tempfile.TemporaryDirectory() as folder:
        agent.save(folder, resumable=True)
        loaded = trial.agent_class.load(folder, trial.env(), device="cpu")
    for when in ("at once", "after further updates"):
        if snapshot(loaded) != snapshot(agent):
            raise CheckError(
                f"saved and loaded, the agent is not what it was ({when}): add what it remembers to "
                "state_dict and load_state_dict, and networks of its own to `networks`"
            )
        agent.learn(2)
        loaded.learn(2)
    return "saved and loaded, it goes on to the same bits"


def closed_form(trial: Trial) -> str:
    """From scratch it climbs towards the optimum of reward − β·KL, which is known; says how near it comes.

    Raises:
        CheckError: It climbs hardly or goes down.
    """
    task = enumerable(seed=trial.seed)
    rows, beta = LARGER * trial.rows, BETA
    try:
        agent = trial.agent(task, rows=rows, kl_coef=beta)
    except ConfigError:  # best-of-n has no KL penalty
        agent, beta = trial.agent(task, rows=rows), 0.0
    every = trajectories(task)
    rewards = task.reward(every).values

    def distribution() -> Any:
        with torch.no_grad():
            return trajectory_log_probs(agent.policy, every).double().exp().numpy()

    start = distribution()
    agent.learn(ITERATIONS)
    end = distribution()
    best = optimal_policy(start, rewards, beta) if beta else np.eye(len(every))[int(rewards.argmax())]

    def objective(p: Any) -> float:
        return float(p @ rewards) - (beta * kl_divergence(p, start) if beta else 0.0)

    share = (objective(end) - objective(start)) / (objective(best) - objective(start))
    paid = float((end - start) @ rewards / (rewards.max() - start @ rewards))
    far, near = total_variation(start, best), total_variation(end, best)
    said = (
        f"after {ITERATIONS} batches of {rows} texts reward − β·KL (β = {beta:g}) went from "
        f"{objective(start):.3f} to {objective(end):.3f}; the optimum is {objective(best):.3f}. "
        f"Total variation to π* ∝ π_ref·exp(r/β) from {far:.3f} to {near:.3f}"
    )
    if max(share, paid) < ENOUGH:
        raise CheckError(
            f"it does not climb: {said}. The reward alone went from {start @ rewards:.3f} to "
            f"{end @ rewards:.3f}"
        )
    if near <= CLOSE:
        return f"{said}: it finds the closed form"
    if share < ENOUGH:
        return (
            f"{said}. The reward alone rose from {start @ rewards:.3f} to {end @ rewards:.3f}: the KL "
            "penalty does not hold it back"
        )
    return said
