"""How `dims.config` reads bots.yaml: document, variables, models, complaints, and no more.

Import from `dims.config`; what is in here may move.
"""
