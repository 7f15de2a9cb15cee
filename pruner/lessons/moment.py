"""What a model is worth at one look while it heals."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """What the model is worth at one look: `seconds` since it began to learn, 0 before that; the loss on text that is held
    back, in bits a character; and what it writes."""

    stage: str
    seconds: float
    loss: float
    text: str
