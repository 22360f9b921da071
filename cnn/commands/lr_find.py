"""Finds a learning rate: trains for some steps at growing rates until the loss diverges, and saves nothing.

The network, its recipe and the data are those of cnn train, with the same options. The curve shows the loss of each
step and its running mean. Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3.
"""

import argparse
import sys

from cnn.commands import _common
from cnn.commands._train_options import add_step_arguments, adjusted
from cnn.data.dataset import DEFAULT_DATASET
from cnn.report.chart_text import chart_lines
from cnn.report.run_charts import rate_chart
from cnn.system.storage import write_atomically
from cnn.terminal.arguments import number, output_file, whole_number
from cnn.terminal.printing import is_terminal, print_json, print_lines, print_text, shown, terminal_width
from cnn.training.progress import Bar
from cnn.training.rate_search import HIGHEST, LOWEST, RULE, STEPS, lr_find
from cnn.words import counted

MOST_WIDTH = 100
"""Columns of the curve."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """DATASET, the recipe's options, the range, and the forms of the result."""
    search = parser.add_argument_group("range")
    search.add_argument("--lowest", type=number, default=LOWEST, metavar="X", help="learning rate of the first step")
    search.add_argument("--highest", type=number, default=HIGHEST, metavar="X", help="learning rate of the last step")
    search.add_argument("--steps", type=whole_number, default=STEPS, metavar="N", help="steps at most")
    add_step_arguments(parser)
    parser.add_argument("--png", type=output_file, metavar="FILE", help="write the curve as a PNG image")
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Searches and prints the curve, the suggestion and its rule."""
    if options.png:
        from cnn.report.chart_png import charts_picture
    if options.dataset is None:
        options.dataset = DEFAULT_DATASET if options.data_dir is None else _common.OWN_IMAGES
    data = _common.dataset_of(options)
    with _common.resources(options) as resources:
        architecture = adjusted(_common.fitting_architecture(options.model, data), options)
        recipe = architecture.recipe
        batch_size = options.batch_size or recipe.batch_size
        model = architecture.build(data=data, backend=resources.backend, seed=options.seed or 0)
        epochs = options.steps * batch_size / len(data.train)
        found = lr_find(
            model,
            data.train,
            recipe=recipe,
            lowest=options.lowest,
            highest=options.highest,
            steps=options.steps,
            class_weight=options.class_weights,
            callback=Bar(epochs) if is_terminal(sys.stderr) else None,
            batch_size=batch_size,
        )
    chart = rate_chart(found.rates, found.losses, found.smoothed, found.suggestion)
    if options.png:
        title = f"{model.name} on {data.name}, batch {batch_size}: suggested learning rate {found.suggestion:.2g}"
        write_atomically(options.png, charts_picture([chart], title))
    if options.json:
        described = {
            "model": model.name,
            "dataset": data.name,
            "batch_size": batch_size,
            "optimizer": recipe.optimizer.config(),
            **resources.to_dict(),
            "precision": model.precision,
            "seed": options.seed or 0,
            "rates": found.rates,
            "losses": found.losses,
            "smoothed": found.smoothed,
            "diverged": found.diverged,
            "lowest": found.lowest,
            "steepest": found.steepest,
            "suggestion": found.suggestion,
            "rule": RULE,
        }
        print_json(described)
        return
    print_lines(
        {
            "network": f"{model.name} on {data.name}",
            **resources.describe(model),
            "recipe": f"batch {batch_size}, {type(recipe.optimizer).__name__}, its own rate {recipe.schedule.lr:g}",
        }
    )
    print()
    for line in chart_lines(chart, min(MOST_WIDTH, terminal_width())):
        print(shown(line))
    print()
    steepest = "and never fell" if found.steepest is None else f"and fell steepest at {found.steepest:.2g}"
    end = f"diverged at {found.rates[-1]:.2g}" if found.diverged else f"had not diverged at {found.rates[-1]:.2g}"
    print_text(
        f"After {counted(len(found.rates), 'step')} of {found.steps:,} the loss {end}; smoothed, it was "
        f"lowest at {found.lowest:.2g} {steepest}."
    )
    print_text(f"Suggested: --lr {found.suggestion:.2g}, {RULE}.")
    if found.steepest is None:
        print_text("note: the loss never fell, so this says little; try a lower --lowest or more --steps")
    if not found.diverged:
        print_text("note: a higher --highest shows where it diverges")
