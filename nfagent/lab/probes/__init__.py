"""Connections and packets between network namespaces: which are answered, which are lost, and when.

    raw_packets        the SCTP and ICMP packets that probes build themselves; pure
    listeners          servers in any namespace; they record the source address of each probe
    flow               one connection that is probed: TCP, UDP, SCTP or ICMP
    probe              many probes at once: which are answered, and from which source address they arrived
    first_packet       a probe every millisecond, to find the first packet that meets a changed verdict
    continuous_probe   repeats the same probes while verdicts must not change
    connection_stream  opens connections all the time, to see which are lost and how long
    traffic            connections with continuous traffic, and the packets that arrive on each
    packet_counter     counts the packets that arrive in a namespace, with the kernel's timestamps
    conntrack_events   the time at which conntrack destroyed each entry

May import: topology and machine. Guarantee: a result is what a peer's socket or the kernel saw; none is derived from
policies or rules.
"""
