"""What all pictures share: the look, and the way from a matplotlib figure to an SVG that fits into a page.

with new_figure(640, 260) as figure:      # CSS pixels
    figure.subplots().plot(...)
    return svg_text(svg_tree(figure))
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_HASHED = re.compile(r"(?<=[#\"])[a-z][0-9a-f]{10}(?=[)\"])")
SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
# Told apart with any common colour blindness, and in grey (Okabe and Ito's set; the yellow darker, for thin lines).
SERIES = ("#0072b2", "#56b4e9", "#009e73", "#d9b600", "#e69f00", "#d55e00")
LEFT, REMOVED, GRID = SERIES[0], "#d9d9d9", "#e6e6e6"
PAPER, INK, FAINT = "#ffffff", "#000000", "#666666"
OVER = "#fefefe"  # of texts on a bar: white, but a page may make the paper another colour
_VARIABLES = {
    **{colour: f"--plot-{place}" for place, colour in enumerate(SERIES)},
    REMOVED: "--plot-removed",
    FAINT: "--plot-faint",
    PAPER: "--plot-paper",
    OVER: "--plot-over",
    INK: "--plot-ink",
    GRID: "--plot-grid",
}
_COLOUR = re.compile("|".join(_VARIABLES))
# The page's own face; matplotlib only measures with its own.
_ROOT_STYLE = "font-family: system-ui, sans-serif; stroke-linejoin: round; stroke-linecap: butt; fill: {ink}"
_FONT_FAMILY = re.compile(r"font-family: [^;]*(; |$)")
_REFERENCE = re.compile(r"url\(#([^)]*)\)|^#(.*)$")
_UNITS_PER_INCH = 72
# In a narrow page a picture shrinks to this share of its width, where its texts can still be read, and then scrolls.
_LEAST_SCALE = 0.75
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "svg.hashsalt": "densepack",  # the same picture is the same file
    "text.parse_math": False,  # names come from outside, and may hold a dollar
    "font.family": "sans-serif",
    "font.size": 12.0,
    "axes.titlesize": 13.0,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@contextmanager
def new_figure(
    width: float, height: float, *, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """A figure of so many CSS pixels in our look; take its SVG inside the block."""
    with matplotlib.rc_context(_STYLE):
        size = (width / _UNITS_PER_INCH, height / _UNITS_PER_INCH)
        yield Figure(figsize=size, dpi=_UNITS_PER_INCH, layout=layout)


def svg_tree(figure: Figure) -> Element:
    """The figure as SVG elements, one unit a CSS pixel, without what would disturb a page around it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{SVG}style":  # matplotlib's holds for everything around it
                parent.remove(child)
    for name in ("width", "height"):
        root.set(name, root.get(name, "").removesuffix("pt"))
    root.set("style", _ROOT_STYLE.format(ink=INK))
    referenced = {name for element in root.iter() for value in element.attrib.values() for name in _references(value)}
    for element in root.iter():
        _tidy(element, referenced)
    return root


def _tidy(element: Element, referenced: set[str]) -> None:
    if element.get("id") not in referenced and element.tag == f"{SVG}g" and not _is_ours(element):
        element.attrib.pop("id", None)
    if f"{_XLINK}href" in element.attrib:
        element.set("href", element.attrib.pop(f"{_XLINK}href"))
    if "d" in element.attrib:
        element.set("d", " ".join(element.attrib["d"].split()))
    if element.tag == f"{SVG}text":
        element.set("style", _FONT_FAMILY.sub("", element.get("style", "")))


def _is_ours(element: Element) -> bool:
    """Whether a plot named the element, to find it again."""
    return element.get("id", "").startswith("plot-")


def _references(value: str) -> Iterator[str]:
    for found in _REFERENCE.finditer(value):
        yield found[1] or found[2]


def svg_text(root: Element) -> str:
    """The elements as text, every colour of ours as a variable that a page may set."""
    for element in root.iter():
        for name in ("style", "fill", "stroke"):
            if name in element.attrib:
                element.set(name, _COLOUR.sub(_as_variable, element.attrib[name]))
    ElementTree.register_namespace("", SVG.strip("{}"))
    return settled(ElementTree.tostring(root, encoding="unicode")) + "\n"


def settled(svg: str) -> str:
    """The same picture as the same text on every processor: matplotlib's last digits differ, and its ids with them."""
    numbers = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", svg)
    names = {name: f"part-{place}" for place, name in enumerate(dict.fromkeys(_HASHED.findall(numbers)), start=1)}
    return _HASHED.sub(lambda found: names[found[0]], numbers)


def _as_variable(found: re.Match[str]) -> str:
    return f"var({_VARIABLES[found[0]]}, {found[0]})"


def inlined(svg: str, prefix: str, label: str) -> str:
    """The picture for a place inside a page: its ids begin with `prefix`, and `label` says what it shows."""
    root = ElementTree.fromstring(svg)
    root.set("role", "group")
    root.set("style", f"{root.get('style')}; min-width: {_LEAST_SCALE * float(root.get('width', 0)):g}px")
    root.set("aria-label", label)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{prefix}-{value}")
            elif name == "href":
                element.set(name, f"#{prefix}-{value.removeprefix('#')}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}-"))
    return ElementTree.tostring(root, encoding="unicode")


def legend_beside(axes: Axes) -> None:
    """A legend to the right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
