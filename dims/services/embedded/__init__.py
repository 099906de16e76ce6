"""One embedded server as a process of the fleet: `python -m dims.services.embedded`."""
