"""Model loading, devices, threads and the CPU fast path, for policies and reward models alike."""
