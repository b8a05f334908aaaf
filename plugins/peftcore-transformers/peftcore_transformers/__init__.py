"""What plugins of transformers' families build on."""
