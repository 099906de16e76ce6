"""Messages on their way from a mailbox to handlers, and what becomes of each."""
