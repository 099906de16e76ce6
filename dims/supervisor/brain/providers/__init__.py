"""What services say of themselves, and what bots get of it."""
