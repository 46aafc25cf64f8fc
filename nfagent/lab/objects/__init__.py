"""Objects of a cluster to build labs and benchmarks from. Pure.

    documents         encodes model objects as an API server's JSON documents: the inverse of `nfagent.decode`
    policy_templates  templates of typical NetworkPolicies
    synthetic         clusters of any size, from a seed

May import no other package of the lab. Guarantee: the same seed gives the same objects, in the same order.
"""
