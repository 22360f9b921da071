"""Measuring: benchmarks, the profiler, the tuner, and the test that tells a gain from noise."""
