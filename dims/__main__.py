"""`python -m dims`: the same as the command `dims`."""

from __future__ import annotations

from dims.cli.main import main

if __name__ == "__main__":
    main()
