"""The algorithms, one file each; the settings of all are in `configs`.

To read how PPO learns, read `ppo.py` from top to bottom: `update` goes from the reference policy's
log-probabilities to the optimizer's step, and `loss` stands below it. `grpo.py`, `rloo.py` and `reinforce.py`
are laid out in the same way and differ in their advantages and losses. What all four share is in
`policy_gradient.py` (minibatches, gradients, metrics) and `agent.py` (playing, stepping, saving).

Where is the KL computed? In `estimators.py`: its estimates, and the coefficient β that they are weighed with.
"""
