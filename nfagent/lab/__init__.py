"""The network-namespace lab: nodes, Pods and outside hosts as network namespaces of one machine, with probes.

May import any package of nfagent, and do I/O. No package of the agent imports it.
Needs root, iproute2's `ip`, br_netfilter where Pods share a bridge, and the kernel's VLAN (8021q) or vxlan devices
where nodes are joined by them.

    topology_plan     nodes, Pods and outside hosts as plain values; pure
    ip_commands       the `ip -batch` lines that configure a namespace after its plan; pure
    netns             network namespaces: names, entering one, sysctls, removing those of dead processes
    topology          builds a plan: nodes that forward, Pods attached to them; removes all of it
    raw_packets       the SCTP and ICMP packets that probes build themselves; pure
    listeners         servers in any namespace; they record the source address of each probe
    flow              one connection that is probed: TCP, UDP, SCTP or ICMP
    probe             many probes at once: which are answered, and from which source address they arrived
    first_packet      a probe every millisecond, to find the first packet that meets a changed verdict
    continuous_probe  repeats the same probes while verdicts must not change
    connection_stream opens connections all the time, to see which are lost and how long
    traffic           connections with continuous traffic, and the packets that arrive on each
    packet_counter    counts the packets that arrive in a namespace, with the kernel's timestamps
    conntrack_events  the time at which conntrack destroyed each entry
    agents            an agent on every node, all with one manifests folder
    agents_apiserver  an agent on every node, all with one API server
    control_plane     a real kube-apiserver and its etcd; uses binaries, processes, credentials
    logged_command    runs a long command with its output in a log, and ends it with its children
    kube_client       changes objects as kubectl does; uses https, discovery, resources
    lab_plan          the cluster of `lab up`, as plans and documents; pure
    lab_up            `nfagent lab up`; pod_servers answers in its Pods, api_source fills its API server
    running_labs      labs that stay up: their names, state files, processes, and removing them
    requirements      what the machine must have, with the command that fixes it; lab_check lists all of it
    latency           `nfagent lab latency`; latency_labs builds, latency_try makes one change, latency_rates measures
                      throughput, latency_progress and latency_options are the command's
    latency_cluster   the cluster that is measured; latency_scenarios its changes; synthetic, policy_templates and
                      documents its background; pure
    change_writers    writes a change to a folder or an API server, and says when
    prober            the first packet with a new verdict, by a C program (prober.c)
    traffic_rates     TCP streams, short connections and datagrams, by a C program (traffic_rates.c); c_program.h has
                      what both programs have in common
    process_cpu       CPU time of other processes, and waiting until they rest
    machine_facts     machine and versions, for the samples
    ebpf_baseline     the same policy as an eBPF program at tc, a reference for measurements
    demo              `nfagent lab demo`; demo_output formats it

Guarantees: no traffic leaves the lab's own namespaces. Everything that `up()` made is gone after `down()`, also when
`up()` was interrupted. `netns.sweep` removes namespaces of processes that were killed; `running_labs` finds all of a
lab that stays up by its name. A topology loads no nftables
rules: the agent that runs in a node's namespace enforces policies.
"""
