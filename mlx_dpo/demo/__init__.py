"""The demo and the small models it, the tests and the benchmarks are run on."""
