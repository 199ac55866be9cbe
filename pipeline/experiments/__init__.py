"""What is done to an experiment, one module a verb."""
