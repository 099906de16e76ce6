"""Connections to PostgreSQL: addresses tried, TLS, pools, limits, what refusals mean."""
