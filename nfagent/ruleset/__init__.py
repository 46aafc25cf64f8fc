"""What the kernel must hold: the ruleset as values, its text, and the transactions between two of them.

One table, `inet nfagent`. `desired` keeps the state and says what the ruleset must be, `lower` turns
policies' terms into nftables', `text` writes nft syntax, `parse` reads what the kernel lists,
`transaction` is the difference of two rulesets. May import: policy, egress, cluster, errors. Pure.
Promises: equal state gives an equal ruleset; parse(list(apply(text(r)))) == r; apply(diff(a, b), a) == b.
"""
