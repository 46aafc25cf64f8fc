"""What nfagent costs, measured beside its references in the same run; not part of the installed package.

    python -m benchmarks                 every row; a table on the terminal, and a JSON file with --json FILE
    python -m benchmarks --quick         fewer rounds and smaller clusters, two minutes
    python -m benchmarks --only nflog    some of them; --list names all

May import: anything of the agent and its lab, and the world. Nothing imports it.

    rows        what a benchmark gives: values, reference, targets; and the figures made of them; pure
    registry    `@bench`, and what a benchmark is given
    report      rows as a table, and as JSON
    growth      how a figure grows with the size of the cluster: a fit, and a plot
    meter       seconds, CPU seconds and resident memory of this process or another
    synthetic   seeded clusters of any size; pure
    documents   model objects as the JSON documents that the API server would give; pure
    events      streams of events over a synthetic cluster; pure
    shapes      the policies that people write; pure
    references  an eBPF map update, an element by libnftables' JSON, plain dict decoding: one operation at a time
    traffic     streams, short connections and datagrams between network namespaces, by a C program
    ways        the labs of the packet rows: no rules, nfagent's, eBPF's
    packets     throughput and connections a second through rules, beside no rules and the eBPF path
    before      the same through the rules of another checkout's agents, an earlier state's, in the same run
    circles     changes of every kind that cut Pods off from each other, as manifests; pure
    revocations live connections that such changes end, under traffic: the last packet, and conntrack's entry
    paper_server  an API server of prepared bytes, and paper_pods, the Pods that it serves
    apiserver   150,000 Pods through it: cold start, memory, a million events; apiserver_child has the agent's parts
    twins       two equal labs: one agent follows a real API server, one a folder
    latency     change to first packet with the new verdict, by either way; by a prober of its own
    outage      an API server killed under traffic: wrong verdicts, and how long catching up takes
    nflog       records a second from bytes to attributed record, and NFLOG itself at its highest rate without loss

A figure is only ever given with the reference that was measured beside it, in turns.
"""
