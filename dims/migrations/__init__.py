"""How the database came to look as it does, and the runner behind `dims db migrate`.

| module | its noun |
|---|---|
| `revisions` | one change each, forward and back; frozen once released |
| `steps` | what a revision may call |
| `history` | the line of revisions |
| `risks` | statements that lose data or keep bots waiting |
| `locks` | the migration lock and who holds it; what a transaction has locked |
| `catalogue` | what a database looks like, as texts to compare |
| `link` | one connection to the server, its errors in our words |
| `runner` | all of it |
"""
