"""How pages look: one palette for light and dark, its CSS, and figures in it as SVG and as PNG."""

import contextlib
import io
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

# Name: (light, dark). Text has a contrast of at least 4.5 to the ground and to cards, lines of data one of 3; a test
# computes them. The light colours are what figures are drawn in, so no two are the same.
PALETTE: dict[str, tuple[str, str]] = {
    "ground": ("#ffffff", "#0d1117"),
    "card": ("#f5f7f9", "#161b22"),
    "warn": ("#fff4ce", "#352a08"),
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#57606a", "#9aa4af"),
    "line": ("#d0d7de", "#3a424b"),
    "blue": ("#0b62c4", "#58a6ff"),
    "red": ("#c4320a", "#ff8466"),
    "green": ("#1a7f37", "#4ac26b"),
    "grey": ("#6e7781", "#8b949e"),
}
INK, MUTED, LINE, BLUE, RED, GREEN, GREY = (
    PALETTE[name][0] for name in ("ink", "muted", "line", "blue", "red", "green", "grey")
)
_RC: Any = {
    "axes.axisbelow": True, "axes.edgecolor": MUTED, "axes.facecolor": "none", "axes.grid": True,
    "axes.labelcolor": INK, "axes.spines.right": False, "axes.spines.top": False, "axes.titlecolor": INK,
    "figure.constrained_layout.use": True, "figure.facecolor": "none", "font.size": 9, "grid.color": LINE,
    "grid.linewidth": 0.6, "legend.fontsize": 8, "legend.frameon": False, "legend.labelcolor": INK,
    "lines.linewidth": 1.6, "svg.fonttype": "none", "svg.hashsalt": "mbjax", "text.color": INK,
    "text.parse_math": False,  # a class may be named $5
    "xtick.color": MUTED, "xtick.labelcolor": INK, "ytick.color": MUTED, "ytick.labelcolor": INK,
}  # fmt: skip


class Chart(NamedTuple):
    """A figure of a page.

    Attributes:
      name: of its PNG file, without the ending.
      title: above it.
      alt: what it shows, in a sentence, for who cannot see it.
      svg: itself, with the page's colours.
    """

    name: str
    title: str
    alt: str
    svg: Markup


def css() -> Markup:
    """The palette as CSS variables, dark where the reader's system is; on paper light."""
    light, dark = (
        "".join(f"--{name}:{colors[theme]};" for name, colors in PALETTE.items()) for theme in (0, 1)
    )  # fmt: skip
    return Markup(f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}")


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Figures that are made and saved in this block have the page's style; text in them is no formula."""
    with mpl.rc_context(_RC), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that the PNG's font lacks
        yield


def chart(figure: Figure, name: str, title: str, alt: str, *, folder: pathlib.Path) -> Chart:
    """Writes the figure to `folder` as PNG, and gives it as SVG for the page. Call it within `drawing`."""
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=120, facecolor="white")
    return Chart(name, title, alt, _svg(figure, name))


def _svg(figure: Figure, name: str) -> Markup:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for variable, (light, _) in PALETTE.items():
        svg = re.sub(rf"(?<=[\s:\"']){light}(?=[;\s\"'])", f"var(--{variable})", svg)
    # Several figures stand in one page: their ids must not meet.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    return Markup(svg.replace("xlink:href", "href"))
