"""What several tests use, and the programs that tests run in processes of their own."""
