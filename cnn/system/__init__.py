"""The computer under the library: its processors, threads, clock, files, signals and caches."""
