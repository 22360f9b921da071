"""What a computation takes in joules."""
