"""Measuring: benchmarks, the profiler, the tuner, and what tells noise from a gain."""
