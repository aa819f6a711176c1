"""Faults, injected on purpose and by seed, and what clients saw of them."""
