"""A BLAS in a process of its own, which shares the memory of the arrays: for a library that cannot be loaded here."""
