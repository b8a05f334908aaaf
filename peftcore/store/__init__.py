"""How an adapter is kept."""
