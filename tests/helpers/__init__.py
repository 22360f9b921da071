"""Code that several tests share, and the programs that tests run in their own processes."""
