"""Walks through every state that two or three writers can bring one brook into, running the product's own code.

`python -m tests.simulation.explore` explores all scenarios and all mutants; `--replay` runs one schedule again.
"""
