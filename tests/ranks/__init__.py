"""Several processes that train together: started here as `torchrun` would start them, and hurt."""
