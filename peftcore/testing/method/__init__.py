"""The contract of methods, a file for each thing that a user does with an adapter."""
