"""The algorithms of vistune: training and evaluation, without any search library."""
