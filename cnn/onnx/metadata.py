"""What ONNX has no place for, kept in a file's metadata so that a network comes back as it was."""

import json
from typing import Any

from cnn.model.sequential import Sequential

MODEL, LONGEST = "cnn", 10_000_000
"""The key of our own entry, and the most characters of an entry that are read."""
KEPT = ("weights", "weight_multipliers", "bias_multipliers", "connections", "scale", "shift")
"""Settings of layers that the graph does not show."""


def extras(model: Sequential) -> dict[str, dict[str, Any]]:
    """Those settings by layer, where they are not the default."""
    tables = {node.name: node.layer.config() for node in model.network.nodes}
    found = {name: {key: table[key] for key in KEPT if key in table} for name, table in tables.items()}
    return {name: table for name, table in found.items() if table}


def entry(properties: dict[str, str], key: str) -> Any:
    """The JSON value of an entry, None if there is none that can be read."""
    text = properties.get(key, "")
    if not 0 < len(text) <= LONGEST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
