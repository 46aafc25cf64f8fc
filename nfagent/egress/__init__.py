"""Who is translated when it leaves the cluster: the ip-masq-agent configuration, and the plan it makes.

May import: cluster, errors. Pure. Promises: a configuration that can't be read leaves the previous one in
force; the cluster's own ranges are never translated, whatever is configured.
"""
