"""The brain and the keeper: what decides about processes, and what holds them."""
