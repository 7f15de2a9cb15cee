"""A Keras file in, a Keras file out: what is pruned goes back into the model as Keras saves it."""
