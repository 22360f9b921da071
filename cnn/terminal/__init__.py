"""What commands and benchmarks have in common at a terminal: arguments, printing and a progress bar."""
