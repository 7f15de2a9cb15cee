"""The lessons on paper: one HTML file, one page a lesson, from the same texts and the same measurements as the screen; the
answers, with what to notice, stand on pages of their own.

The pictures are tables and drawings of plain SVG, so that the file needs nothing from elsewhere, now or later.
"""

import html
import re
from collections.abc import Iterable, Sequence

from pruner.examples.embedded_reber import SYMBOLS
from pruner.examples.speaking import PROMPT
from pruner.lessons import cell, frozen, healing, norms, packed, repair, smaller, steps, together
from pruner.lessons.course import SOURCES, TERMS, Lesson, source_of
from pruner.lessons.model import GRAMMAR, model
from pruner.lstm.gates import GATE_TITLES, GATES, SIDES, split_gates
from pruner.views.colours import DROPPED, GATE_COLORS, LINE_COLORS

CELL = 18  # points
STYLE = """
body { font: 9.5pt/1.35 Georgia, serif; color: #000; background: #fff; max-width: 180mm; margin: 10mm auto; }
section { break-after: page; }
h1, h2 { font-family: Helvetica, Arial, sans-serif; line-height: 1.2; }
h1 { font-size: 17pt; } h2 { font-size: 11.5pt; margin-bottom: 0.2em; }
pre { font-size: 7.5pt; white-space: pre-wrap; border: 1px solid #999; padding: 2mm; break-inside: avoid; }
table { border-collapse: collapse; margin: 2mm 0; }
td, th { border: 1px solid #999; padding: 0.6mm 2.5mm; text-align: right; }
svg { max-width: 100%; height: auto; display: block; margin: 2mm 0; }
ul, ol { margin: 1mm 0; padding-left: 6mm; } .small { font-size: 8.5pt; }
section:last-child { break-after: auto; }
@page { size: A4; margin: 14mm; } @media print { body { margin: 0; max-width: none; } }
"""


def handout() -> str:
    """The whole handout, with every lesson at the settings that its page starts with."""
    measured = list(_measured())
    lessons = [_lesson(number, lesson, picture) for number, (lesson, picture, _) in enumerate(measured)]
    answers = "".join(_answer(number, lesson, notices) for number, (lesson, _, notices) in enumerate(measured))
    terms = "".join(f"<li><b>{html.escape(term)}</b>: {html.escape(meaning)}</li>" for term, meaning in TERMS.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Pruning LSTMs gate by gate</title>'
        f"<style>{STYLE}</style></head><body>\n{''.join(lessons)}"
        f"<section><h1>Answers</h1>{answers}</section>\n"
        f"<section><h1>Terms</h1><ul>{terms}</ul></section>\n</body></html>\n"
    )


def _measured() -> Iterable[tuple[Lesson, str, list[str]]]:
    """Each lesson with its picture as HTML and what to notice."""
    yield cell.LESSON, *_walked()
    size = model(GRAMMAR).lstm.hidden_size
    reshaped = packed.reshape(size)
    colors = list(GATE_COLORS.values())
    drawn = (
        f"<p class=small>{title}: a line a gate, a cell a unit, in the colour of the gate that the row belongs to.</p>"
        + _cells([[colors[gate] for gate in line] for line in (rows // size).tolist()])
        for title, rows in (
            (f"Right, view(4, {size}, -1)", reshaped.right),
            (f"Wrong, view({size}, 4, -1)", reshaped.wrong),
        )
    )
    yield packed.LESSON, _key() + "".join(drawn), packed.notice(packed.FIRST_ROW, reshaped)

    found = norms.by_hand(norms.NUMBERS)
    sums = [
        f"({first:g}, {second:g}): {norm:.3g}"
        for (first, second), norm in zip(found.weight.tolist(), found.saliency.tolist(), strict=True)
    ]
    yield (
        norms.LESSON,
        "<p class=small>Two weights a row and, behind the colon, the sum of their absolute values.</p>"
        + _table(
            ["gate", *(f"unit {unit}" for unit in range(norms.UNITS))],
            [[gate, *sums[at * norms.UNITS : (at + 1) * norms.UNITS]] for at, gate in enumerate(GATES)],
        ),
        norms.notice(found),
    )

    compared = together.compare(together.SHARE)
    lines = [
        [title, side, *(str(count) for count in compared.kept[way][side].tolist())]
        for way, title in together.WAYS.items()
        for side in SIDES
    ]
    yield (
        together.LESSON,
        f"<p class=small>Rows left of {size} in each gate, with {together.SHARE:.0%} of all rows dropped.</p>"
        + _table(["ranked", "weight", *GATES], lines),
        together.notice(compared, "hh"),
    )

    stages = steps.stages(GRAMMAR, "ih")
    kept = [
        [GATE_COLORS[gate] if keep else DROPPED for keep in line]
        for gate, line in zip(GATES, split_gates(stages.mask).tolist(), strict=True)
    ]
    yield (
        steps.LESSON,
        f"<p class=small>The mask of {stages.tensor}: a line for each gate; amber cells are dropped.</p>"
        + _key()
        + _cells(kept),
        [notice for step in steps.STEPS for notice in steps.notice(stages, step)],
    )

    decider = frozen.find_decider()
    watched = frozen.watch(decider.text, "f", decider.unit, "both")
    yield (
        frozen.LESSON,
        f"<p class=small>Forget gate of unit {decider.unit}, which costs most when it is frozen, while the model reads "
        f"{decider.text}. Blue: whole; amber: both rows masked. From 0 below to 1 above.</p>"
        + _lines([watched.values["whole"].tolist(), watched.values["masked"].tolist()], watched.text[:-1]),
        frozen.notice(watched, "both"),
    )

    shrunk = smaller.shrink(smaller.SHARE)
    lines = [
        [title, f"{shrunk.quality[way]:.0%}", f"{shrunk.parameters[way]:,}"] for way, title in smaller.WAYS.items()
    ]
    yield (
        smaller.LESSON,
        f"<p class=small>The grammar model with {smaller.SHARE:.0%} of its rows, or of its units, dropped.</p>"
        + _table(["model", "strings right", "weights"], lines),
        smaller.notice(shrunk, smaller.SHARE),
    )

    rows = [
        [f"{share:.0%}", f"{each.quality['none']:.0%}", f"{each.quality['fold']:.0%}", f"{each.explained.mean():.0%}"]
        for share, each in ((share, repair.repair(share)) for share in repair.SHARES)
    ]
    yield (
        repair.LESSON,
        _table(["units removed", "strings right", "compensated", "told by those kept, on average"], rows),
        repair.notice(repair.repair(repair.SHARE)),
    )

    texts = (
        f"<p class=small>{html.escape(title)} writes:</p><pre>{html.escape(PROMPT + text)}</pre>"
        for title, text in healing.ruined().items()
    )
    yield healing.LESSON, "".join(texts), healing.notice([])


def _walked() -> tuple[str, list[str]]:
    """What the model expects at every step of a string, and what a unit remembers meanwhile."""
    found, (unit, _, _) = cell.walk(), cell.keeper()
    lines = [
        [symbol, f"{c:.2f}", " or ".join(legal), *(f"{share:.0%}" for share in shares)]
        for symbol, c, legal, shares in zip(
            found.read, found.cells[:, unit].tolist(), found.legal, found.shares.tolist(), strict=True
        )
    ]
    return _table(["reads", f"c of unit {unit}", "allowed next", *SYMBOLS], lines), cell.notice(found)


def _lesson(number: int, lesson: Lesson, picture: str) -> str:
    answers = "".join(f"<li>{html.escape(answer.text)}</li>" for answer in lesson.answers)
    code = html.escape("\n\n".join(map(source_of, lesson.code)))
    sources = "; ".join(f"{html.escape(SOURCES[key][0])}, {html.escape(SOURCES[key][1])}" for key in lesson.sources)
    return (
        f"<section><h1>{number}. {html.escape(lesson.title)}</h1>"
        f"<p><b>{_marked(lesson.question)}</b> {_marked(lesson.introduction)}</p>{picture}"
        f"<h2>In the library</h2><pre>{code}</pre>"
        f"<h2>Predict</h2><p>{_marked(lesson.check)}</p><ol type=a>{answers}</ol>"
        f"<p class=small>Sources: {sources}</p></section>\n"
    )


def _answer(number: int, lesson: Lesson, notices: list[str]) -> str:
    right = next(answer for answer in lesson.answers if answer.right)
    noticed = "".join(f"<li>{_marked(notice)}</li>" for notice in notices)
    told = f"<b>{number}. {_marked(lesson.check)}</b> {html.escape(right.text)}. {_marked(right.why)}"
    return f"<p>{told}</p><ul class=small>{noticed}</ul>"


def _marked(text: str) -> str:
    """The little Markdown that lessons use: **bold** and `code`."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(value)}</td>' for value in line)}</tr>" for line in lines)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{cells}</table>"


def _key() -> str:
    """Which colour stands for which gate."""
    named = (
        f'<svg width="12" height="12" style="display:inline"><rect width="12" height="12" fill="{color}"/></svg> '
        f"{gate} {GATE_TITLES[gate]}"
        for gate, color in GATE_COLORS.items()
    )
    return f"<p class=small>{' &nbsp; '.join(named)}</p>"


def _cells(colors: Sequence[Sequence[str]]) -> str:
    """Coloured cells, one line of the drawing for each inner sequence, gates named at its start."""
    drawn = "".join(
        f'<rect x="{(column + 1) * CELL}" y="{line * CELL}" width="{CELL - 1}" height="{CELL - 1}" fill="{color}"/>'
        for line, row in enumerate(colors)
        for column, color in enumerate(row)
    )
    names = "".join(
        f'<text x="0" y="{(line + 0.75) * CELL}" font-size="12">{gate}</text>' for line, gate in enumerate(GATES)
    )
    size = f"{(len(colors[0]) + 1) * CELL} {len(colors) * CELL}"
    return f'<svg viewBox="0 0 {size}" role="img" aria-label="Gates and units">{drawn}{names}</svg>'


def _lines(series: Sequence[Sequence[float]], symbols: str) -> str:
    """Lines over the symbols of a string, on a scale from 0 to 1; the second one is dashed."""
    height, step = 120, 500 / len(symbols)

    def points(values: Sequence[float]) -> str:
        return " ".join(f"{(at + 0.5) * step:.1f},{height * (1 - value) + 5:.1f}" for at, value in enumerate(values))

    drawn = "".join(
        f'<polyline points="{points(values)}" fill="none" stroke="{color}" stroke-width="2.5" stroke-dasharray="{dash}"/>'
        for values, color, dash in zip(series, (LINE_COLORS[0], DROPPED), ("none", "7 4"), strict=True)
    )
    letters = "".join(
        f'<text x="{(at + 0.5) * step:.1f}" y="{height + 24}" font-size="12" text-anchor="middle">{symbol}</text>'
        for at, symbol in enumerate(symbols)
    )
    frame = f'<rect x="0" y="5" width="500" height="{height}" fill="none" stroke="#999"/>'
    return (
        f'<svg viewBox="0 0 500 {height + 30}" role="img" aria-label="A gate over time">{frame}{drawn}{letters}</svg>'
    )
