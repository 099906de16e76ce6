"""Answers to Telegram's RPC requests, and what personas do."""
