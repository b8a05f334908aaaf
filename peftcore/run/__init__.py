"""What happens in a forward pass."""
