"""The energy of training when no meter counts it, modelled from this machine's calibration."""

from math import inf

from cnn.cost import Described, count
from cnn.energy.calibrated import predict_calibrated
from cnn.energy.calibration import Calibration, find
from cnn.errors import CnnError
from cnn.meter import Energy, Kind, Meter, Unmetered
from cnn.system.threads import in_words


class CalibratedPower(Meter):
    """E = P_idle t + e n, in joules: idle watts for t seconds of steps, and dynamic joules for each of n images."""

    kind: Kind = "modelled"

    def __init__(self, idle_watts: float, joules_per_image: float, source: str) -> None:
        self.idle_watts, self.joules_per_image, self.source = idle_watts, joules_per_image, source

    def stop(self, images: int, seconds: float) -> Energy:
        return Energy(self.idle_watts * seconds + self.joules_per_image * images, self.kind, self.source)


def calibrated_meter(described: Described, batch: int, backend: str, threads: int) -> Meter:
    """Models training steps of `described` by the calibration of `backend` at `threads`, or says why it cannot."""
    try:
        found = find(backend, threads)
        if found is None:
            return _without(f"{backend} at {in_words(threads)} has no calibration with watts")
        return _of(found, described, batch)
    except CnnError as error:
        return Unmetered(str(error))
    # Numbers of an edited file may be possible one by one and impossible together.
    except (ArithmeticError, ValueError) as error:
        return _without(f"the calibration is damaged ({error!r})")


def _of(calibration: Calibration, described: Described, batch: int) -> Meter:
    idle, busy = calibration.idle_watts, calibration.busy_watts
    if idle is None or busy is None:
        return _without(f"the calibration of {calibration.date} has no watts")
    prediction = predict_calibrated(count(described, batch, training=True), calibration)
    joules = prediction.joules.value if prediction.joules else inf
    dynamic = (joules - idle * prediction.seconds.value) / batch
    if not (0 <= idle < inf and 0 <= dynamic < inf):
        raise ValueError(f"{idle} W idle, {dynamic} J per image")
    return CalibratedPower(
        idle,
        dynamic,
        f"the calibration of {calibration.date} with {idle:g} W idle and {busy:g} W busy: "
        f"{idle:g} W times the seconds of the steps, and {dynamic:.3g} J per image",
    )


def _without(reason: str) -> Unmetered:
    return Unmetered(f"{reason} (`cnn calibrate` with --idle-watts and --busy-watts makes one)")
