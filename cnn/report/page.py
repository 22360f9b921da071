"""A comparison as one HTML file that needs nothing else: tables, plots as inline SVG, light and dark, no scripts."""

from collections.abc import Iterable
from html import escape

from cnn.report.comparison import Comparison
from cnn.report.curve import Curve
from cnn.report.figures import drawings, inline_svg
from cnn.report.row import Row
from cnn.report.table import (
    HEAD,
    SCALING_HEAD,
    cells,
    notes,
    number_text,
    scaling_cells,
    scaling_notes,
    scaling_sections,
    sections,
    sources,
)

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --muted: #59636e; --grid: #d8dee4;
  --blue: #0969da; --green: #1a7f37; --orange: #bc4c00; --purple: #8250df; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --ink: #e6edf3; --muted: #9198a1; --grid: #30363d;
  --blue: #4493f8; --green: #3fb950; --orange: #db6d28; --purple: #ab7df8; } }
body { background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; max-width: 1280px;
  margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; border-bottom: 1px solid var(--grid); text-align: right; white-space: nowrap; }
th { color: var(--muted); font-weight: 600; white-space: normal; min-width: 6em; vertical-align: bottom; }
.text { text-align: left; }
.text:first-child { white-space: normal; min-width: 9em; }
figure { margin: 1.5em 0; }
svg { max-width: 100%; height: auto; }
.note { color: var(--muted); font-size: 13px; }
"""
CAPTIONS = {
    "bars": "Time per batch and energy per image; lines are intervals.",
    "published": "How far the model is to be trusted: what others measured, over what it says of the same "
    "(`cnn model validate --published` has the numbers).",
    "scaling": "Steps of data-parallel training by the model; what it assumes stands under the tables.",
    "rooflines": "FLOP count im2col + GEMM as executed: an algorithm that multiplies less can exceed the roof.",
}


def page(comparison: Comparison, header: dict[str, str]) -> str:
    """The file's text; `header` says, by title, what it was made with."""
    known = sources(comparison)
    ours = [_section(*each, known) for each in sections(comparison) if each[1] is comparison.rows]
    published = [_section(*each, known) for each in sections(comparison) if each[1] is not comparison.rows]
    parts = [
        f"<h1>{escape(comparison.title)}</h1>",
        _list(f"{title}: {text}" for title, text in header.items()),
        *ours,
        _list(comparison.omitted),
        *(_figure(comparison, name) for name in drawings(comparison)),
        *(_scaling(*each) for each in scaling_sections(comparison)),
        f"<h2>Layer by layer{', milliseconds and millijoules on each device' * bool(comparison.breakdowns)}</h2>",
        _table(*_layers(comparison), texts=2),
        *published,
        "<h2>Sources</h2>",
        "<ol>" + "".join(f"<li>{escape(source)}</li>" for source in known) + "</ol>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(comparison.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _section(title: str, rows: tuple[Row, ...], known: list[str]) -> str:
    table = _table(HEAD, [cells(row, known) for row in rows], texts=1)
    return f"<h2>{escape(title)}</h2>{table}{_list(notes(rows))}"


def _scaling(title: str, curves: tuple[Curve, ...]) -> str:
    table = _table(SCALING_HEAD, [row for curve in curves for row in scaling_cells(curve)], texts=1)
    return f"<h2>{escape(title)}, predicted</h2>{table}{_list(scaling_notes(curves))}"


def _figure(comparison: Comparison, name: str) -> str:
    caption = f'<figcaption class="note">{CAPTIONS[name]}</figcaption>'
    return f"<figure>{inline_svg(comparison, name)}{caption}</figure>"


def _layers(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """FLOP and bytes of each layer and phase, and its time on each device, and its energy where that is known."""
    columns: list[tuple[str, dict[tuple[str, str], str]]] = []
    for device in comparison.breakdowns:
        places = [(each.stage.layer, each.stage.phase) for each in device.stages]
        times = [number_text(each.seconds.value * 1e3) for each in device.stages]
        columns.append((f"{device.device}, ms", dict(zip(places, times, strict=True))))
        if any(each.joules for each in device.stages):
            energy = [number_text(each.joules.value * 1e3) if each.joules else "-" for each in device.stages]
            columns.append((f"{device.device}, mJ", dict(zip(places, energy, strict=True))))
    head = ["layer", "phase", "MFLOP", "MB", "FLOP/byte", *(title for title, _ in columns)]
    rows = [
        [
            stage.layer,
            stage.phase,
            *(number_text(value) for value in (stage.flops / 1e6, stage.bytes / 1e6, stage.intensity)),
            *(column[stage.layer, stage.phase] for _, column in columns),
        ]
        for stage in comparison.cost.stages
        if stage.operations
    ]
    return head, rows


def _table(head: list[str], rows: list[list[str]], *, texts: int) -> str:
    """A table whose first columns, `texts` of them, are text and the others numbers."""

    def line(cell: str, row: list[str]) -> str:
        kinds = [' class="text"' if place < texts else "" for place in range(len(row))]
        inner = "".join(f"<{cell}{kind}>{escape(text)}</{cell}>" for kind, text in zip(kinds, row, strict=True))
        return f"<tr>{inner}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="wide"><table><thead>{line("th", head)}</thead><tbody>\n{body}\n</tbody></table></div>'


def _list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="note">{items}</ul>' if items else ""
