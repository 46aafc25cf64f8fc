"""Egress NAT: which packets that leave the cluster are masqueraded, and which destinations keep the Pod's address.

May import: state and below. Pure. Promises: the cluster's own ranges are never masqueraded, whatever is configured.
"""
