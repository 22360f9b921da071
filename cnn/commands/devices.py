"""Lists the devices that the model of time and energy knows, with the source and confidence of every number.

--devices adds a file of your own, with tables like those of cnn/energy/devices.toml. This machine is listed once
`cnn calibrate` has measured it.
"""

import argparse
from dataclasses import asdict

from cnn.commands import _common
from cnn.energy.calibration import Calibration, load_all
from cnn.energy.devices import Device, catalogue
from cnn.precision import FLOAT32
from cnn.system.threads import in_words
from cnn.terminal.arguments import expanded
from cnn.terminal.printing import print_json, print_lines, print_table
from cnn.words import unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """DEVICE and the options."""
    parser.add_argument(
        "device", metavar="DEVICE", nargs="?", help="show only this device, with the sources of its numbers"
    )
    parser.add_argument("--devices", type=expanded, metavar="FILE", help="TOML file with devices of your own")
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    devices, calibrations = catalogue(options.devices), load_all()
    if options.device is not None:
        if options.device not in devices:
            raise unknown("There is no device", options.device, devices)
        devices, calibrations = {options.device: devices[options.device]}, []
    if options.json:
        print_json(
            {
                "devices": {key: asdict(device) for key, device in devices.items()},
                "this_machine": [_calibrated(each) for each in calibrations],
            }
        )
    elif options.device is not None:
        _print_one(devices[options.device])
    else:
        head = ["device", "SGEMM GFLOP/s", "GB/s", "idle W", "busy W", "cap W", "numbers unverified"]
        print_table(head, [_row(device) for device in devices.values()])
        for each in calibrations:
            rates = f"{each.sgemm_rate / 1e9:.0f} GFLOP/s, {each.triad_rate / 1e9:.1f} GB/s"
            where = f"this machine, {each.backend}, {in_words(each.threads)}"
            where += "" if each.precision == FLOAT32 else f", {each.precision}"
            print(f"{where} ({each.date}): {rates}")


def _calibrated(calibration: Calibration) -> dict[str, object]:
    left_out = ("products", "laws")
    return {name: value for name, value in vars(calibration).items() if name not in left_out}


def _print_one(device: Device) -> None:
    print(f"{device.key}: {device.name}")
    numbers = {name: str(quantity) for name, quantity in device.quantities().items()}
    print_lines(numbers or {"numbers": "none is known"})


def _row(device: Device) -> list[str]:
    known = device.quantities()

    def cell(name: str) -> str:
        return f"{known[name].value:,.4g}" if name in known else "-"

    unverified = sum(each.confidence == "unverified" for each in known.values())
    columns = ("sgemm_gflops", "stream_gbs", "idle_watts", "busy_watts", "cap_watts")
    return [device.key, *map(cell, columns), f"{unverified} of {len(known)}"]
