"""``python -m anomalib_stfpm_deploy infer ...``: the same as ``anomalib-stfpm infer ...``."""

from .cli import main

if __name__ == "__main__":
    main()
