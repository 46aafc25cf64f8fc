"""An agent that enforces the same policies by an eBPF program at tc: what nfagent is compared with (docs/lab-ebpf.md).

    agent         `python -m nfagent.lab.ebpf.agent`: sources, state and rules of nfagent, with maps in place of rules
    policy.c      the program; maps.h has the maps' structures, packet.h reads headers
    codec         keys, values and events of the maps, as in maps.h; pure
    state         the entries that the cluster's state needs; pure, from these:
        policy_sets   policy numbers of Pods, and the entries of each
        grants        rules as peers and ports that are allowed
        identities    addresses to identities
        blocks        ipBlocks to identities
        masquerade    destinations that aren't masqueraded
        prefixes      ranges of addresses and ports as prefixes
        coverage      what the path doesn't cover
    datapath      writes entries in an order that never opens more, and keeps the program on Pods' links
    program       compiles, loads and attaches the program; libbpf has the bindings, maps reads and writes a map
    links         the links of Pods on their node
    nat           the static nft rule that masquerades marked packets
    events        verdict events from the ring buffer
    requirements  what the path needs of the machine; check tries the program too
    baseline      the program with one policy, for benchmarks of the datapath alone

May import: topology and machine. It knows nothing of how it is measured. Guarantees: what it doesn't cover is named in
its status, and closed; it is never judged in another way.
"""
