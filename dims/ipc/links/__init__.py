"""Messages over sockets, between processes that run now."""
