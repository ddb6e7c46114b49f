//! Whole-system tests, the demo and the benchmark, on real parts.
