"""Two independent implementations of policies: `compiler` to rules, `evaluator` to the verdict on one flow.

They share the selectors and the model, nothing else: each is checked against the other. May import: state and below.
Pure. Promises: a policy that can't be read isolates the Pods that it could select, and affects nobody else.
"""
