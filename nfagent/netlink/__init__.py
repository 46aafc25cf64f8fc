"""Pure codecs of netlink: messages and attributes, nf_tables, NFLOG, conntrack, rtnetlink, sock_diag; packet headers.

May import: nftables and below. Bytes in, values out, and back; no socket, no clock. Invariants: decoders are total (a
value or a WireError, for any bytes); each layout names its kernel structure or RFC.
"""
