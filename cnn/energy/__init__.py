"""Time, energy and power of a network's step: measured by meters, predicted from its cost, published by others."""
