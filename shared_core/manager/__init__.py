"""Example Manager (paper §4.3): what enters the pool, and what leaves it."""
