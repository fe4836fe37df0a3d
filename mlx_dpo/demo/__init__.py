"""The demo, and the small models of the demo, the tests and the benchmarks."""
