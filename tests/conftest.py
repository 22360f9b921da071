"""What holds for every test: no clock chooses an algorithm."""

import os

# Winograd's error is bounded over a tile, not element by element; its own tests call it by name.
os.environ["CNN_ALGORITHM"] = "im2col"
