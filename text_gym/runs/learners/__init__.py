"""How a run learns: with an agent of ours, alone or beside other processes, or with Stable-Baselines3."""
