"""What decides about units and fleet. Pure: no clock, no chance, no I/O."""
