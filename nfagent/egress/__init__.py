"""Who is translated when it leaves the cluster: ip-masq-agent, EgressNATPolicies, and the plan that they make.

May import: cluster, errors. Pure. Promises: an object that can't be read leaves its previous version in
force; the cluster's own ranges are never translated, whatever is configured.
"""
