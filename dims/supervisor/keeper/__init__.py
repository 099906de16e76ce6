"""The process one starts: holds sockets, starts the brain again, reaps."""
