"""Convolutional networks on CPUs: every convolution is im2col + GEMM on the BLAS you name."""
