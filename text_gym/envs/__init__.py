"""The environments: vector and single, with prompts, masks, wrappers and checkers."""
