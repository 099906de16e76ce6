"""Messages between DIMS processes: envelope, framing, channel."""
