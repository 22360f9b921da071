"""The names of the files in the folder of a training run."""

from cnn.model import modelfile

MODEL = modelfile.FILE
CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"
SETTINGS, SUMMARY = "settings.json", "summary.json"
FILES = CHECKPOINT, METRICS, MODEL, SETTINGS, SUMMARY
