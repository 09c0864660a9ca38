"""The search platform of vistune, from the command line to the execution of trials."""
