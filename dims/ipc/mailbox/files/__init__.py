"""A mailbox's files: segments, lanes, the ledger of what was read. Knows no handler."""
