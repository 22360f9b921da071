"""Data-parallel training: several processes divide every batch and sum their gradients over MPI."""
