"""What needs an administrator's rights: schema, roles, audit, upkeep, inspection."""
