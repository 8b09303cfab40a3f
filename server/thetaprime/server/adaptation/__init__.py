"""One round's step: its inputs, the step, its precomputation and its commit."""
