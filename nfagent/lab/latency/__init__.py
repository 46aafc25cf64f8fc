"""`nfagent lab latency`: how long until a change takes effect, by nftables and by eBPF in turns.

    run             the command; options reads its options, progress shows what is being done
    labs            builds the labs: equal topologies, one for each path
    cluster         the cluster that is measured; scenarios its changes; pure
    try_            one change, from its writing to the first packet with the new verdict
    change_writers  writes a change to a folder or an API server, and says when
    rates           throughput, connections, CPU and memory of each path
    prober          the first packet with a new verdict, by a C program (prober.c)
    traffic_rates   TCP streams, short connections and datagrams, by a C program (traffic_rates.c); c_program.h has
                    what both programs have in common
    process_cpu     CPU time of other processes, and waiting until they rest
    machine_facts   machine and versions, for the samples
    quantiles       quantiles by the nearest rank; pure
    samples         the raw samples as JSON, which a report is made from

May import: cluster and below; `samples` imports nothing of the lab. Guarantees: both paths see the same changes in the
same order; an interrupted run keeps what it has, marked as incomplete.
"""
