from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from tests.sb3_world import letters_env, make_ppo


def test_the_buffer_keeps_every_step_once_in_sequences_of_one_episode() -> None:
    model = make_ppo(letters_env(), learning_rate=0.0, n_steps=17)
    seen: list[tuple[int, ...]] = []

    class Collect(BaseCallback):
        def _on_step(self) -> bool:
            obs = self.locals["obs_tensor"]
            for i, action in enumerate(self.locals["actions"]):
                prefix = obs["tokens"][i, : int(obs["length"][i])].tolist()
                seen.append((*prefix, -1, int(action)))
            return True

    model.learn(6 * 17, callback=Collect())
    found: list[tuple[int, ...]] = []
    sizes = []
    for batch in model.rollout_buffer.get(30):
        sizes.append(len(batch.actions))
        at = 0
        obs: Any = batch.observations
        for tokens, first, steps in zip(obs["tokens"], obs["length"][:, 0], obs["steps"][:, 0], strict=True):
            for k in range(int(steps)):
                found.append((*tokens[: int(first) + k].tolist(), -1, int(batch.actions[at])))
                at += 1
    assert sorted(found) == sorted(seen)
    assert len(sizes) == 3
    assert max(sizes) <= 30 + 2 * 5
