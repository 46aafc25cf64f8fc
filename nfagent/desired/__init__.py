"""Cluster state to the desired ruleset of this node, incrementally: the cost of an object is that of what it touches.

`state` keeps the objects and their indexes, `policy_sets` and `tier_chains` write the chains, `set_members` the
elements, `tracker` notes what the kernel has not been told yet. May import: netlink and below. Pure. Promises: equal
state gives an equal ruleset; the incremental state equals a rebuilt one.
"""
