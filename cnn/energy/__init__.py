"""Time, energy and power of a network's step on a device, predicted from its cost."""
