"""The computer that the library runs on: processors, threads, clock, files, signals and the cache folder."""
