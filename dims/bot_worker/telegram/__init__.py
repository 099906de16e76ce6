"""Telethon inside a worker: client, session, updates, and what its errors mean."""
