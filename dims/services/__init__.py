"""Processes of the fleet beside bots. None knows the supervisor or another service."""
