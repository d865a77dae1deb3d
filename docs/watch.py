"""Draw the README's film: a policy on `text_gym/Reverse-v0` before training and after it.

python docs/watch.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import text_gym  # noqa: F401  (registers the ids)
from text_gym.envs.rendering import Frame

ID = "text_gym/Reverse-v0"
KWARGS: dict[str, Any] = {"observation": "onehot"}
FILM = Path(__file__).parent / "watch.gif"


def play(model: PPO, episodes: int, seed: int) -> tuple[list[list[Frame]], float]:
    """Play episodes with sampled tokens; return the pictures of each, and the mean return."""
    env: Any = gym.make(ID, render_mode="rgb_array", **KWARGS)
    films, total = [], 0.0
    for k in range(episodes):
        observation, _ = env.reset(seed=seed if k == 0 else None)
        film, over = [env.render()], False
        while not over:
            action, _ = model.predict(observation)
            observation, reward, terminated, truncated, _ = env.step(int(action))
            total += float(reward)
            over = terminated or truncated
            film.append(env.render())
        films.append(film)
    return films, total / episodes


def title(frame: Frame, text: str) -> Image.Image:
    """Put a line of text on top of a picture."""
    picture = Image.new("RGB", (frame.shape[1], frame.shape[0] + 28), (32, 42, 68))
    ImageDraw.Draw(picture).text((10, 4), text, fill=(255, 255, 255), font=ImageFont.load_default(16))
    picture.paste(Image.fromarray(frame), (0, 28))
    return picture


def film(before: list[list[Frame]], after: list[list[Frame]], titles: tuple[str, str]) -> list[Image.Image]:
    """Show the episodes of both one below the other; the shorter one of a pair waits at its end."""
    pictures = []
    for one, two in zip(before, after, strict=True):
        for i in range(max(len(one), len(two)) + 1):
            upper, lower = (f[min(i, len(f) - 1)][:300] for f in (one, two))
            both = [title(upper, titles[0]), title(lower, titles[1])]
            picture = Image.new("RGB", (both[0].width, 2 * both[0].height))
            for part, top in zip(both, (0, both[0].height), strict=True):
                picture.paste(part, (0, top))
            pictures.append(picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=24))
    return pictures


def main(steps: int = 60_000, episodes: int = 4, seed: int = 0, out: Path = FILM) -> None:
    """Train Stable-Baselines3's PPO by id, and draw episodes of it.

    Args:
        steps: Tokens to learn from.
        episodes: In the film.
        seed: Of the policy, its training and the episodes.
        out: The GIF.
    """
    envs = make_vec_env(ID, 16, seed=seed, env_kwargs=KWARGS)
    model = PPO("MlpPolicy", envs, n_steps=64, batch_size=256, gamma=1.0, learning_rate=1e-3, seed=seed)
    before, mean_before = play(model, episodes, seed)
    model.learn(steps)
    after, mean_after = play(model, episodes, seed)
    titles = (
        f"before training: these {episodes} episodes return {mean_before:.2f} on average",
        f"after {steps:,} tokens of Stable-Baselines3's PPO: {mean_after:.2f}",
    )
    pictures = film(before, after, titles)
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=450, loop=0, optimize=True)
    returns = np.mean([play(model, 200, seed + 1)[1]])
    print(
        f"{out}: {len(pictures)} pictures, {out.stat().st_size // 1024} kB; 200 more episodes: {returns:.3f}"
    )


if __name__ == "__main__":
    tyro.cli(main)
