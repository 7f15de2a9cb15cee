"""Size against quality of all that was tried, as a picture that opens anywhere."""

from html import escape

import pandas as pd

from pruner.views.colours import DROPPED

WIDTH, HEIGHT, EDGE = 560, 340, 48
INK, FIRST = "#1a1a1a", "#0072b2"


def frontier_svg(frontier: pd.DataFrame, measure: str, dense: float | None) -> str:
    """The table of `search.smallest.Shrunk.frontier` as SVG: a dot a candidate, the chosen one filled, a line the dense."""
    table = frontier.dropna(subset=["quality"])
    heights = [*table["quality"], *([] if dense is None else [dense])]
    low, high = min(heights), max(heights)
    span = (high - low) or 1.0

    def place(macs: float, quality: float) -> tuple[float, float]:
        return EDGE + macs * (WIDTH - 2 * EDGE), HEIGHT - EDGE - (quality - low) / span * (HEIGHT - 2 * EDGE)

    drawn = []
    if dense is not None:
        _, height = place(0, dense)
        drawn.append(
            f'<line x1="{EDGE}" x2="{WIDTH - EDGE}" y1="{height:.1f}" y2="{height:.1f}" stroke-dasharray="5 4"/>'
        )
        drawn.append(f'<text x="{WIDTH - EDGE}" y="{height - 5:.1f}" text-anchor="end">dense {dense:.4g}</text>')
    for each in table.to_dict("records"):
        x, y = place(each["macs"], each["quality"])
        told = f"{each['macs']:.0%} of the multiply-accumulates, {each['quality']:.4g}, healed {each['seconds']:.0f} s"
        fill = DROPPED if each["chosen"] else "none"
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{7 if each["chosen"] else 5}" fill="{fill}" stroke="{FIRST}">'
            f"<title>{escape(told)}</title></circle>"
        )
    axes = "".join(
        f'<text x="{place(share, low)[0]:.1f}" y="{HEIGHT - EDGE + 18}" text-anchor="middle">{share:.0%}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
        f'font-size="12" fill="{INK}" stroke-width="1.5">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<g stroke="{INK}"><line x1="{EDGE}" x2="{WIDTH - EDGE}" y1="{HEIGHT - EDGE}" y2="{HEIGHT - EDGE}"/></g>'
        f'<text x="{EDGE}" y="24">{escape(measure)}, over the share of multiply-accumulates left</text>'
        f'<text x="{EDGE - 6}" y="{HEIGHT - EDGE}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{EDGE - 6}" y="{EDGE + 4}" text-anchor="end">{high:.3g}</text>'
        f'{axes}<g stroke="{INK}">{"".join(each for each in drawn if each.startswith("<line"))}</g>'
        f"{''.join(each for each in drawn if not each.startswith('<line'))}</svg>\n"
    )
