"""The home of all that bots know: PostgreSQL and Valkey, embedded or elsewhere."""
