"""Pruned LSTMs without what was dropped: the modules, how they are made, how they lie in a file, what they cost."""
