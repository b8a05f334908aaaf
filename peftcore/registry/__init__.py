"""What is installed: specs, hooks of plugins, discovery."""
