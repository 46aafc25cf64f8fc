"""Access to the kernel: libnftables' listings, commits, notifications, conntrack, NFLOG, interfaces, bridges.

May import: system and below. Calls here may block and fail. Guarantees: a module closes what it opens; lost messages
are counted; an error names the object and, where the kernel reports one, the reason.
"""
