"""A BLAS in a separate process that shares the memory of the arrays: for a library that cannot be loaded here."""
