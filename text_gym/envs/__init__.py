"""The environments: many episodes at a time, one at a time, prompts, masks, wrappers, checkers."""
