"""Pure codecs of netlink: messages and attributes, nf_tables, NFLOG, conntrack, rtnetlink, sock_diag; packet headers.

May import: nftables and below. Bytes in, values out, and back; no socket, no clock. Promises: decoders are total (a
value or a WireError, whatever the bytes); layouts name the kernel structure or the RFC that they come from.
"""
