"""The `dims` command: parse, ask over the control socket, render."""
