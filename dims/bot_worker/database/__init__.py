"""A bot's database as its worker sees it: pools within the fleet's budget."""
