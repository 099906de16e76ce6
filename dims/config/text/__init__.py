"""bots.yaml as a text: read with care, each value with its place, faults in plain English."""
