"""Benchmarks of nfagent, each figure measured beside its reference in the same run; not part of the installed package.

    python -m benchmarks                 all suites; a table on the terminal, and a JSON file with --json FILE
    python -m benchmarks --quick         fewer rounds and smaller clusters, two minutes
    python -m benchmarks --only nflog    some suites; --list prints all names

May import: all of the agent and its lab. Nothing imports it.

    registry     `@bench`, and the parameters of a run
    results      rows: values, reference, targets, and the figures computed from them; pure
    report       rows as a table, and as JSON
    scaling_fit  how a figure grows with the size of the cluster: a fit, and a plot
    data/        inputs; pure: synthetic clusters, their documents and events, policy templates, revocation scenarios
    harness/     tools: an API server with synthetic objects, traffic generators, labs, references, CPU and memory usage
    suites/      the benchmarks, one module each: its name with hyphens is the suite's name for --only

A figure is always reported with the reference that was measured beside it, in turns.
"""
