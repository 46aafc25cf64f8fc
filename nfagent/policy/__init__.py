"""Two independent implementations of policies: `compiler` to rules, `evaluator` to the verdict on one flow.

They share only the selectors and the model; tests compare them with each other. Pure. May import: state and below.
Guarantees: an unreadable policy isolates the Pods that it could select, and affects no other Pod.
"""
