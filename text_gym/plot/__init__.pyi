from .canvas import panels as panels
from .canvas import save as save
from .canvas import to_svg as to_svg
from .estimates import agreement as agreement
from .estimates import calibration as calibration
from .estimates import intervals as intervals
from .estimates import spread as spread
from .lines import Line as Line
from .lines import curves as curves
from .lines import frontier as frontier
from .lines import reward_and_gold as reward_and_gold
from .maps import heat_map as heat_map
from .maps import token_heat_map as token_heat_map
from .points import scatter as scatter
from .texts import coloured_text as coloured_text
from .trees import diagram as diagram
from .trees import tree as tree

__all__ = [
    "Line",
    "agreement",
    "calibration",
    "coloured_text",
    "curves",
    "diagram",
    "frontier",
    "heat_map",
    "intervals",
    "panels",
    "reward_and_gold",
    "save",
    "scatter",
    "spread",
    "to_svg",
    "token_heat_map",
    "tree",
]
