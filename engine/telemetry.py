"""What libraries would report to their makers: told to keep quiet, before they are loaded."""

import os


def silence_onnxruntime() -> None:
    """Once it is imported, onnxruntime 1.31 leaves a lasting device id and a store of events in the user's
    cache and looks up its maker's collector, unless this variable is there; afterwards is too late."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
