"""What layers need beside convolution, as NumPy methods every backend inherits and may override one by one."""
