"""nftables as values: the ruleset's objects, their text, the parser of listings, transactions between two rulesets.

One table, `inet nfagent`. May import: policy, egress, state and below. Pure. Promises: parse(list(apply(text(r)))) ==
r; apply(diff(a, b), a) == b.
"""
