"""The objects of the cluster, with indexes: a query costs what its result costs, not the size of the cluster.

Pure. May import: decode and below. Guarantees: each event updates the indexes, which always equal rebuilt ones.
"""
