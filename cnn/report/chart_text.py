"""A chart in letters, for a terminal."""

from collections.abc import Iterator

from cnn.report.chart import Chart, share, tick_text

LETTERS = "*o+x#@"
"""Of the series, in turns; where two meet, the first is seen."""
ROWS = 10


def chart_lines(chart: Chart, width: int, rows: int = ROWS) -> Iterator[str]:
    """The lines, `width` columns at most: title with the letters of the series, the plot, and the ends of both axes."""
    if chart.empty:
        return
    (x_low, x_high), (y_low, y_high) = chart.x_range(), chart.y_range(room=0)
    ends = [tick_text(float(f"{value:.3g}"), percent=chart.percent) for value in (y_high, y_low)]
    margin = max(map(len, ends))
    columns = max(10, width - margin - 3)
    field = [[" "] * columns for _ in range(rows)]
    for letter, series in reversed(list(zip(LETTERS, chart.series, strict=False))):
        for x, y in series.points():
            if chart.x_log and x <= 0:
                continue
            column = round(share(x, x_low, x_high, chart.x_log) * (columns - 1))
            row = round((y_high - y) / (y_high - y_low) * (rows - 1))
            if 0 <= row < rows and 0 <= column < columns:
                field[row][column] = letter
    keys = [f"{letter} {each.label}" for letter, each in zip(LETTERS, chart.series, strict=False) if each.label]
    yield chart.title + (f" ({', '.join(keys)})" if keys else "")
    for number, letters in enumerate(field):
        label = ends[0] if number == 0 else ends[1] if number == rows - 1 else ""
        yield f"{label:>{margin}} |{''.join(letters)}".rstrip()
    left, right = (tick_text(float(f"{value:.3g}")) for value in (x_low, x_high))
    right += f" {chart.x_label}{', logarithmic' * chart.x_log}"
    yield f"{'':{margin}} +{'-' * columns}"
    yield f"{'':{margin}}  {left}{right:>{max(1, columns - len(left))}}"
