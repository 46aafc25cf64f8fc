"""What suites measure with: labs, traffic, a synthetic API server, baselines of other techniques."""
