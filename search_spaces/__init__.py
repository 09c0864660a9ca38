"""The search spaces of vistune, one module for each experiment."""
