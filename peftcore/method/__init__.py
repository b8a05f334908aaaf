"""What a method says: its configuration, its pieces, its hooks."""
