"""Many recipes rated side by side: sweeps, the sensitivity of each part, sparsities that follow from it."""
