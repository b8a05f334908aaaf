"""ELEVATER's image classification in the wild (Li et al. 2022): its data, task, sweep and score."""
