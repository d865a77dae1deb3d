"""List the packages, wherever their folders stand; all else about the distribution is in pyproject.toml.

The links text_gym/agents and text_gym/reward_models are for people and editors: a source distribution has
none, nor has a checkout on Windows, so the packages are found without them.
"""

from setuptools import find_packages, setup

FOLDERS = {"text_gym": "text_gym", "text_gym.agents": "agents", "text_gym.reward_models": "reward_models"}

setup(
    py_modules=["text_gym_verifiers"],  # where verifiers looks for the taskset of that name
    packages=sorted(
        {
            f"{package}.{inner}" if inner else package
            for package, folder in FOLDERS.items()
            for inner in ["", *find_packages(folder)]
        }
    ),
)
