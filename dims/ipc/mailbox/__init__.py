"""Durable messages: one mailbox per recipient, append-only files that outlive every process.

    sender     MailWriter ── group commit ──► mail/RECIPIENT/SENDER~PRIORITY~NUMBER.seg
                   └── doorbell (a datagram; only wakes) ──►┐
    recipient  Deliveries ◄── Lane (one per sender and priority) ◄── Mailbox
                   └── handler ── settle ──► Ledger (reader.db: what is done, dead, kept)

One process writes a file, and one reads a mailbox: nobody waits for anybody's lock. A message is
durable when its bytes are in the file; it is done when the ledger says so.
"""
