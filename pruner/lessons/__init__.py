"""Nine short lessons on pruning LSTMs: their texts, what each measures on the trained examples, and a handout to print."""

from pruner.lessons import cell, frozen, healing, norms, packed, repair, smaller, steps, together
from pruner.lessons.course import SOURCES, TERMS, Lesson, source_of

LESSONS = tuple(module.LESSON for module in (cell, packed, norms, together, steps, frozen, smaller, repair, healing))

__all__ = ["LESSONS", "SOURCES", "TERMS", "Lesson", "source_of"]
