"""Scripts whose JSON results docs/benchmarks.md is generated from; never shipped in the wheel."""
