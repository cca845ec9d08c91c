"""relay beside its peers: load scripts, one configuration per peer, one report.

``python -m benchmarks --help`` runs it; ``docs/technical-notes/performance.md`` explains the
figures.
"""
