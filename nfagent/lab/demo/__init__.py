"""`nfagent lab demo`: all features of nfagent in under a minute.

    run     the steps; egress has the step on egress NAT
    output  numbered steps, tables, commands with their output

May import: cluster and below. Guarantee: a step whose result isn't the expected one is reported, and changes the
exit status.
"""
