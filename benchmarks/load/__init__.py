"""The load: one module per kind, each a function from a Target to Figures.

``python -m benchmarks.load KIND --help`` runs one against a proxy that is already running.
"""
