"""Messages between bots, as a bot sends and handles them."""
