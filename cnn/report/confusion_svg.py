"""A confusion matrix as an SVG element: rows are true classes, columns answers, and the shade the share of the row."""

from collections.abc import Sequence
from html import escape

COUNTED, NAMED = 20, 40
"""Most classes with which the cells hold numbers, and with which rows and columns have names."""
LETTER, LONGEST = 6.2, 14


def confusion_svg(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """The element; cells on the diagonal are green, mistakes orange, and those without images are left out."""
    count = len(classes)
    numbered, named = count <= COUNTED, count <= NAMED
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in classes]
    cell = 34.0 if numbered else max(4.0, 560 / count)
    longest = max(len(name) for name in names)
    flat = longest * LETTER < cell
    side = longest * LETTER + 10 if named else 4.0
    margin, top = side, 20.0 if flat else side
    size, high = margin + count * cell + 2, top + count * cell + 2
    parts = [
        f'<svg class="chart" viewBox="0 0 {size:.0f} {high + 14:.0f}" role="img" aria-label="confusion matrix" '
        f'style="max-width:{min(640, size):.0f}px">'
    ]
    for row, counts in enumerate(confusion):
        total, y = sum(counts), top + row * cell
        for column, number in enumerate(counts):
            if not number:
                continue
            x, share = margin + column * cell, number / total
            colour = "green" if row == column else "orange"
            # Rare mistakes must be seen, too: the shade is the square root of the share.
            shade = 0.08 + 0.72 * share**0.5
            box = f'x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}"'
            parts.append(f'<rect {box} fill="var(--{colour})" fill-opacity="{shade:.2f}"/>')
            if numbered:
                where = f'x="{x + cell / 2 - 0.5:.1f}" y="{y + cell / 2 + 4:.1f}"'
                parts.append(f'<text class="small count" text-anchor="middle" {where}>{number}</text>')
    if named:
        for place, name in enumerate(names):
            at, text = (place + 0.5) * cell, escape(name)
            if cell >= 12 or place % 2 == 0:
                where = f'text-anchor="end" x="{margin - 6:.1f}" y="{top + at + 4:.1f}"'
                above = f'transform="translate({margin + at + 4:.1f} {top - 6:.1f}) rotate(-90)"'
                if flat:
                    above = f'text-anchor="middle" x="{margin + at:.1f}" y="{top - 6:.1f}"'
                parts += [f'<text class="small" {each}>{text}</text>' for each in (where, above)]
    where = f'x="{margin:.0f}" y="{high + 11:.0f}"'
    parts.append(f'<text class="small" {where}>rows: true class; columns: answer</text>')
    return "".join(parts) + "</svg>"
