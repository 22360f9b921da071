"""The measured layers of a step under this machine's roofline."""

from collections.abc import Mapping

from cnn.cost import count
from cnn.energy.interval import Interval
from cnn.measure.profiler import LayerPass, layer_pass_of
from cnn.model.architecture import Architecture
from cnn.report.chart import Chart
from cnn.report.comparison import StageTime
from cnn.report.comparison_charts import roofline
from cnn.report.table import number_text


def profile_roofline(
    architecture: Architecture,
    batch: int,
    seconds: Mapping[LayerPass, float],
    *,
    training: bool,
    peak: float,
    bandwidth: float,
    title: str,
    precision: str,
) -> Chart:
    """Each stage at its FLOP per byte, with the measured seconds of its layer and direction shared out by FLOP.

    `precision` is that whose bytes are moved, `peak` in FLOP/s that of a large product here, `bandwidth` in bytes/s
    that of the triad. FLOP and bytes are those of im2col + GEMM: an algorithm that multiplies less, or keeps its
    columns in the cache, can lie above the roof.
    """
    stages = count(architecture, batch, training=training, precision=precision).stages
    stages = tuple(stage for stage in stages if stage.flops and stage.bytes)
    totals: dict[LayerPass, int] = {}
    for stage in stages:
        totals[layer_pass_of(stage)] = totals.get(layer_pass_of(stage), 0) + stage.flops
    timed = [
        StageTime(stage, Interval(seconds[place] * stage.flops / totals[place]))
        for stage in stages
        if seconds.get(place := layer_pass_of(stage))
    ]
    timed.sort(key=lambda each: -each.seconds.value)
    roof = f"{number_text(peak / 1e9)} GFLOP/s, {number_text(bandwidth / 1e9)} GB/s"
    return roofline(f"{title}: {roof}", peak / 1e9, bandwidth / 1e9, timed)
