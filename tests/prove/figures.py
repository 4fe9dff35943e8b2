"""Draw the curves of a run for the page, in the colours of the documentation's light and dark themes."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

_THEMES = {"light": "#333333", "dark": "#d0d0d0"}  # of text and lines; the background is the page's
_COLOURS = ("#2f7fbf", "#d9782d", "#3f9f5f", "#c0504d", "#8a6fc0", "#a0714f", "#d673b3", "#7f8c3a")  # curves of a panel
_SIZE, _HEIGHT = 3.4, 2.6  # inches of one panel
_ROWS = 4  # of a legend
_DPI = 120
_SHADES = 64  # with them a picture takes 10 KiB


def draw(figures, page, part):
    """Draw all figures of a part side by side, in files beside the page, and return the Markdown that shows them."""
    if not figures:
        return []
    lines = []
    for theme, colour in _THEMES.items():
        path = page.with_name(f"{page.stem}-{part}-{theme}.png")
        with mpl.rc_context({"font.size": 8, "font.family": "sans-serif"}):
            drawn = FigureCanvasAgg(_canvas(figures, colour))
            drawn.draw()
        Image.fromarray(np.asarray(drawn.buffer_rgba())).quantize(_SHADES).save(path, optimize=True)
        alt = "; ".join(f"{figure.y} over {figure.x}: {', '.join(figure.curves)}" for figure in figures)
        lines += ["", f"```{{image}} {path.name}", f":alt: {alt}", f":class: only-{theme}", "```"]
    return lines


def _canvas(figures, colour):
    canvas = Canvas(figsize=(_SIZE * len(figures), _HEIGHT), dpi=_DPI, facecolor="none", layout="constrained")
    for axes, figure in zip(canvas.subplots(1, len(figures), squeeze=False)[0], figures, strict=True):
        for (name, points), line in zip(figure.curves.items(), _COLOURS[: len(figure.curves)], strict=True):
            axes.plot(*zip(*points, strict=True), color=line, linewidth=1.2, label=name)
        axes.set_facecolor("none")
        axes.set_xlabel(figure.x, color=colour)
        axes.set_ylabel(figure.y, color=colour)
        axes.set_xscale("log" if "x" in figure.log else "linear")
        axes.set_yscale("log" if "y" in figure.log else "linear")
        if "y" not in figure.log:
            axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        axes.tick_params(colors=colour, which="both")
        axes.spines[:].set_color(colour)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, labelcolor=colour, ncols=-(-len(figure.curves) // _ROWS))
    return canvas
