"""Load a model and print as JSON what that took: ``python -m anomalib_stfpm_deploy.load model.xml f32``."""

import json
import sys
import time
from pathlib import Path

from . import machine
from .network import Network
from .timing import noise

_PICTURES = 20  # until the memory stays as it is


def main() -> None:
    """Load the model that the command line names, in the precision that it names."""
    start = time.perf_counter()
    network = Network(Path(sys.argv[1]), sys.argv[2])
    loaded = time.perf_counter()
    request, picture = network.compiled.create_infer_request(), noise(network)
    before = time.perf_counter()
    request.infer({0: picture})
    first = time.perf_counter() - before
    for _ in range(_PICTURES):
        request.infer({0: picture})
    figures = {"load_seconds": loaded - start, "first_ms": 1e3 * first, "resident_bytes": machine.resident_bytes()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
