"""Models: layers in sequence with weights, how they are described, saved and published."""
