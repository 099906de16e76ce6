"""The steward of the database: a service of the fleet that keeps schema and roles in order.

It is the only process of a running fleet with the rights of an administrator. The brain imports no
driver; the steward tells it what workers need: the password of each bot's role, and how many
connections the server allows.

| module | its noun |
|---|---|
| `upgrade` | the revision of the database, brought up to date |
| `roles` | the login roles of bots: made, given passwords, removed |
| `steward` | the process: prepares, watches, answers |
"""
