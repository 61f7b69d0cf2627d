"""What is done to a run folder: its stages, single verbs, comparisons, samples, a check of the machine."""
