"""Pages from the templates of this folder: every name is escaped, and nothing is fetched from anywhere."""

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from cnn.report.chart import Chart
from cnn.report.chart_svg import TEMPLATES, chart_svg
from cnn.report.confusion_svg import confusion_svg
from cnn.report.numbers import count_text, duration, joules_text, number_text, percent, rate_text

if TYPE_CHECKING:
    from jinja2 import Environment


__all__ = ["TEMPLATES", "render"]


def render(template: str, **values: Any) -> str:
    """The text of a template of this folder with these values."""
    return _environment().get_template(f"{template}.html").render(values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def drawn(chart: Chart) -> Markup:
        # It escapes its own texts.
        return Markup(chart_svg(chart))

    def matrix(test: dict[str, Any]) -> Markup:
        return Markup(confusion_svg([each["name"] for each in test["classes"]], test["confusion"]))

    def number(value: float | None) -> str:
        return "-" if value is None else number_text(value)

    def setting(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, dict):
            return ", ".join(f"{name} {setting(each)}" for name, each in value.items()) or "-"
        return f"{value:,}" if isinstance(value, int) else str(value)

    def ticks(text: str) -> str | Markup:
        """The text with what stands between backticks as code."""
        parts = text.split("`")
        if len(parts) % 2 == 0:
            return text
        code = [
            Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
        ]
        return Markup("").join(code)

    def moment(date: str) -> str:
        """A date and time to the minute."""
        try:
            return datetime.fromisoformat(date).isoformat(sep=" ", timespec="minutes")
        except ValueError:
            return date

    environment.filters |= {
        "ticks": ticks,
        "moment": moment,
        "drawn": drawn,
        "matrix": matrix,
        "number": number,
        "setting": setting,
        "percent": lambda share, digits=2: percent(share, digits).replace(" ", "\u00a0"),
        "duration": duration,
        "joules": joules_text,
        "rate": rate_text,
        "count": count_text,
    }
    return environment
