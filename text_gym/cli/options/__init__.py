"""Options of the commands, and how they are read; nothing here needs PyTorch."""
