"""A local Telegram: an MTProto server for demo, tests and fault drills."""
