"""How messages are written: envelopes, frames, bodies, ids. Knows no socket."""
