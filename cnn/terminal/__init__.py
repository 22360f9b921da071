"""What commands and benchmarks share at a terminal: arguments, printing and a progress bar."""
