"""Sockets and libraries of the kernel's netfilter: libnftables, set elements, monitor, conntrack, NFLOG, bridges.

May import: system and below. Here things block, fail and take time. Promises: what is opened here is closed here;
loss is counted, never silent; an error names the object and, where the kernel tells, its reason.
"""
