"""The kernel and time: locks, processes, files that last. Knows nothing of bots."""
