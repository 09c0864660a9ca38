"""The search platform of vistune: from the command line down to where trials run."""
