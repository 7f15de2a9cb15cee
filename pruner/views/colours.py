"""The colours and limits that figures share.

Sequential colours are left to the Plotly template, so that a figure follows the theme it is shown in, light or dark. What
a mask drops is drawn in one colour that no sequential scale of the dashboard contains, and no gate is near.
"""

DROPPED = "#e69f00"
GATE_COLORS = {
    "i": "#0072b2",
    "f": "#56b4e9",
    "g": "#009e73",
    "o": "#cc79a7",
}  # Okabe & Ito, safe for colour-blind eyes
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
AGREEMENT = {"dropped by all": DROPPED, "mixed": "#999999", "kept by all": "#0072b2"}
CELL_TEXT = {"weight": 600}  # Plotly writes in dark grey or white, which is faint on the middle of a scale
CLIP_QUANTILE = 0.995  # a few outliers would flatten the scale for all other rows
CURVE_POINTS = 500  # at most, of one sorted curve
