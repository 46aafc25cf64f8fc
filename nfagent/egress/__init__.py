"""Egress NAT: which packets that leave the cluster are masqueraded, and which destinations keep the Pod's address.

May import: state and below. Pure. Invariant: the cluster's own ranges are never masqueraded, with any configuration.
"""
