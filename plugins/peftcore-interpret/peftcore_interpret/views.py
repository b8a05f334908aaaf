"""The names of what can be shown. Imports no torch."""

#: Of single rows, and of the adapter.
OF_ROWS = ("gradients", "rollout", "mutagenesis")
VIEWS = (*OF_ROWS, "ablation", "spectrum")
