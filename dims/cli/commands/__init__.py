"""The commands of `dims`, one module per group. Each is imported when it is used."""
