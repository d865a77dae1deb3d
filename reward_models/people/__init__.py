"""Raters, simulated and real: how they are asked, and how well they agree.

Where does a person's answer become a reward? A live one in `human.py`, where `HumanReward` turns marks into
numbers; a stored one in `learned/`, where a reward model is fitted to the answers that `labels/` keeps.
"""
