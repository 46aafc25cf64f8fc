"""The soak: a lab under churn and faults for minutes to days, with an oracle, and a sampler of what agents use.

    make soak MINUTES=30                   # as root
    make soak SEED=7 CYCLE=12              # repeats a cycle of a run
    make soak SOURCE=apiserver             # the agents follow a kube-apiserver, not a folder

A cycle begins and ends at the same small cluster. In between, a history of the fuzzer changes everything, with faults.
At rest, after each cycle, tables must be what they were after the first one.

    plan       parameters of a run, the small cluster, and the history of a cycle
    server_objects  a kube-apiserver as the agents' source
    faults     faults: an agent killed, the ruleset flushed, a manifest half-written, ...
    resources  what an agent and its node use: memory, descriptors, threads, connections, files
    tables     what is in a node's nftables: chains, sets, elements, counters
    slope      a robust regression line with its confidence interval
    cycles     one cycle: steps, faults, and questions
    session    one run: cycles until the time is up, and what must have converged
    report     progress, results for people, and report.json
"""
