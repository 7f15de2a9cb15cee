"""What the Keras file of an export is called, and how it is loaded."""

# Keras tells its formats by the ends of their names. Weights alone are loaded into a model that is there already.
MODEL, OLD_MODEL = "pruned.keras", "pruned.h5"
WEIGHTS, OLD_WEIGHTS = "pruned.weights.h5", "pruned_weights.h5"
KERAS_FILES = (MODEL, OLD_MODEL, WEIGHTS, OLD_WEIGHTS)


def lines_for_keras(file: str) -> str:
    """The code that loads it."""
    if file in (WEIGHTS, OLD_WEIGHTS):
        return f'model.load_weights("{file}")  # your own, built with the units that are in the file'
    return f'import keras\n\nmodel = keras.saving.load_model("{file}")'
