"""Output folders, JSON files, and the machine and software that produced the results."""
