"""The fork server: imports once, forks a worker per bot."""
