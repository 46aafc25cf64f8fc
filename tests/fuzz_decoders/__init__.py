"""`make fuzz-decoders`: coverage-guided fuzzing of everything that decodes bytes from outside."""
