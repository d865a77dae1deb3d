"""The reward protocol: values, sources and their sums, transforms, and how sources are called.

No reward is here. A scripted, learned or judging source is in `reward_models/`. A person's answer becomes a
reward there too: `reward_models/people/` asks, `reward_models/labels/` keeps what was said, and
`reward_models/learned/` fits a model to it. The KL penalty is no reward of the environment; the agents
subtract it (`agents/algorithms/estimators.py`).
"""
