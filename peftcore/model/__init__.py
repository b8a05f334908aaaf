"""What a model has: roles, layers, sites, backbones."""
