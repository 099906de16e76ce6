"""Draws the figure in docs/lifecycle.md from the table of transitions.

python docs/draw_lifecycle.py
"""

from __future__ import annotations

from pathlib import Path

from dims.ipc.words.states import State
from dims.supervisor.core.states import transitions

BEGIN, END = "```mermaid\n", "```\n"


def figure() -> str:
    """The states and their transitions as a Mermaid diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.STOPPED}"]
    lines += [f"    {state} --> {follower}: {why}" for state, follower, why in transitions()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Replaces the figure in the page."""
    page = Path(__file__).parent / "lifecycle.md"
    head, rest = page.read_text("utf-8").split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    page.write_text(f"{head}{BEGIN}{figure()}{END}{tail}", "utf-8")


if __name__ == "__main__":
    main()
