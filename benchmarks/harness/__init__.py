"""Tools of benchmarks: a synthetic API server, traffic generators, labs, references, CPU and memory usage."""
