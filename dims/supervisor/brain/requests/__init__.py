"""What operators and bots ask of the brain, and its answers."""
