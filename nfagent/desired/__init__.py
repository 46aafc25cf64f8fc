"""Cluster state to the desired ruleset of this node, incrementally: an event costs what depends on its object.

`state` keeps the objects and their indexes, `policy_sets` and `tier_chains` write the chains, `set_members` the
elements, `tracker` records the changes that are not committed yet. Pure. May import: nftables and below. Guarantees:
equal cluster state gives an equal ruleset; the incremental state equals a rebuilt one.
"""
