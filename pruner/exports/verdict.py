"""What a pruned model is worth beside the dense one, in one word: kept, worse, ruined or unknown."""

import math
from dataclasses import dataclass

KEPT, RUINED = 0.03, 0.25  # by what share the quality may be worse to count as kept, and from what share on as ruined
AGAIN = 0.03  # how far one may be off: another Python has slightly other texts, another processor other roundings


@dataclass(frozen=True)
class Verdict:
    """The quality before and after by the best measure there is; `loss` is the share by which it is worse, if known."""

    measure: str
    before: float | None
    after: float | None
    loss: float | None
    higher_is_better: bool = False

    @property
    def word(self) -> str:
        if self.loss is None:
            return "unknown"
        if self.loss <= KEPT:
            return "kept"
        return "worse" if self.loss <= RUINED else "ruined"

    def told(self) -> dict[str, str | float | None]:
        """As the manifest has it."""
        return {
            "word": self.word,
            "measure": self.measure,
            "before": self.before,
            "after": self.after,
            "loss": self.loss,
        }

    @property
    def sentence(self) -> str:
        """The verdict in words, and where it is bad, the one thing to do."""
        if self.loss is None:
            drift = f"{self.measure} {self.after:.3f}"
            return f"Whether it still answers well is unknown: no inputs were given to judge by ({drift})."
        figures = f"{self.measure} {self.before:.4g} before, {self.after:.4g} after"
        told = {
            "kept": f"It answers like the dense model ({figures}).",
            "worse": f"It answers worse than the dense model ({figures}); heal it, heal it longer, or drop less.",
            "ruined": f"It is ruined ({figures}): heal it (compensation heal), or drop less.",
        }
        return told[self.word]


def as_good(rated: float, stated: float) -> bool:
    """Whether a quality that was measured again is the one that was stated."""
    return math.isclose(rated, stated, rel_tol=AGAIN, abs_tol=AGAIN)


def by_quality(name: str, higher_is_better: bool, before: float, after: float) -> Verdict:
    """From a quality that was measured on held-out data."""
    worse = before - after if higher_is_better else after - before
    loss = max(0.0, worse / abs(before)) if before else max(0.0, worse)
    return Verdict(name, before, after, loss, higher_is_better)


def by_answers(loss: float, of_distributions: bool) -> Verdict:
    """From how far the answers are from the dense model's on held-back inputs, as `drift.held_back_loss` gives it."""
    what = "divergence from" if of_distributions else "squared error against"
    return Verdict(f"{what} the dense model's answers on held-back inputs, relative:", 0.0, loss, loss)


def unknown(drift: float) -> Verdict:
    """Where nothing is known but how far the output moved on random inputs."""
    return Verdict("output drift on random inputs", 0.0, drift, None)
