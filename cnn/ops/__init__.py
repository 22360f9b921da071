"""The operations that layers need besides convolution, as NumPy methods that every backend inherits or overrides."""
