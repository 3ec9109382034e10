"""The README's tables are those of the results in the repository."""

from pathlib import Path

from benchmarks.against_anomalib import tables

REPOSITORY = Path(__file__).parents[2]


def test_the_comparison_with_anomalib_in_the_readme_is_the_one_measured() -> None:
    written = tables(REPOSITORY / "benchmarks" / "results" / "against_anomalib", ["magnetic_tile", "bottle"])
    assert written.strip() in (REPOSITORY / "README.md").read_text(encoding="utf-8")
