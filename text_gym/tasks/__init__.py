"""The tasks that come with text-gym, a file each; load one with `text_gym.load_task(name)`.

A new task is a file here and a line in `TASKS` in `task.py`, or a package of its own (`text-gym init`).
"""
