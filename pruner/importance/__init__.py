"""Scores of rows and hidden units, from weights and from data, and the masks that follow."""
