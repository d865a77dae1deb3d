"""Loading models and picking devices, for policies and reward models alike; needs PyTorch."""
