"""What the test modules share: test data, expected values, generators, child processes."""
