"""Seven short lessons on pruning LSTMs: their texts, what each measures on the trained examples, and a handout to print."""

from pruner.lessons import frozen, norms, packed, repair, smaller, steps, together
from pruner.lessons.course import SOURCES, TERMS, Lesson, source_of

LESSONS = tuple(module.LESSON for module in (packed, norms, together, steps, frozen, smaller, repair))

__all__ = ["LESSONS", "SOURCES", "TERMS", "Lesson", "source_of"]
