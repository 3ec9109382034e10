"""All runs of a reproduction: every category with every seed, going on where it was interrupted."""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anomalib.models.components import AnomalibModule
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from anomalib_stfpm import argument_checks, teacher_weights
from anomalib_stfpm.lightning_model import Stfpm
from anomalib_stfpm.output_folder import remember_configuration
from anomalib_stfpm_deploy import files

from . import category, report
from .protocol import Protocol
from .run import RESULT_FILE, configuration, read_result, run

ERROR_FILE = "error.txt"


def reproduce(
    make_model: Callable[[], AnomalibModule],
    protocol: Protocol,
    root: Path,
    output: Path,
    categories: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
) -> dict[str, str]:
    """Train and test categories under the published protocol and write the table.

    A run (a category with a seed) that has finished is not done again, one that was interrupted goes on from its last
    epoch. ``output`` gets ``results.json``, ``results.csv`` and ``results.md``, which are written again after every
    run, and a folder a run with its result and its student.

    Args:
        make_model: Makes the model, which needs the protocol's evaluator.
        protocol: How to train.
        root: Folder that holds a folder for each category, in MVTec AD's layout.
        output: Folder to write to.
        categories: Names of the categories; ``None`` takes all in ``root``.
        seeds: Seeds, each for a run of every category.

    Returns:
        Why a category has no result, by category; empty if all have.

    Raises:
        FileNotFoundError: If ``root`` holds no category, or the teacher's weights are missing.
        ConnectionError: If the teacher's weights are out of reach.
        ValueError: If an argument is not valid, or ``output`` holds results of another configuration.
        KeyboardInterrupt: If the user interrupts it.

    Example:
        >>> from anomalib_stfpm.reproduction import authors_stfpm
        >>> reproduce(authors_stfpm, Protocol(), Path("datasets/MVTecAD"), Path("results"), ["screw"])  # doctest: +SKIP
        {}
        >>> reproduce(authors_stfpm, Protocol(), Path("nowhere"), Path("results"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: 'nowhere' is not a folder: give the one that holds a folder for each category, ...
    """
    names = list(dict.fromkeys(categories or category.categories_in(root)))
    _check_names(names)
    argument_checks.seeds(seeds)
    model = make_model()
    folders = {(name, seed): output / name / f"seed_{seed}" for name in names for seed in seeds}
    unfinished = {each for each, folder in folders.items() if read_result(folder) is None}
    if unfinished and isinstance(model, Stfpm):
        teacher_weights.read(model.hparams["backbone"], model.teacher_weights)  # fails now, not in every category
    remember_configuration(output, {"root": str(root.resolve()), **configuration(model, protocol)})
    missing: dict[str, str] = {}
    for name in dict.fromkeys(name for name, _ in unfinished):
        if problem := category.problem(root / name):
            missing[name] = problem

    with _progress() as progress:
        runs_done = progress.add_task("runs", total=len(folders))
        epochs_done = progress.add_task("epochs", total=protocol.max_epochs)
        for (name, seed), folder in folders.items():
            if (name, seed) in unfinished and name not in missing:
                progress.update(epochs_done, description=f"{name}, seed {seed}", completed=0)
                try:
                    result = run(make_model, protocol, root, name, seed, folder, _shown(progress, epochs_done))
                except Exception as error:
                    # Whatever it is, the other categories go on.
                    missing[name] = f"{type(error).__name__}: {error} (see '{folder / ERROR_FILE}')"
                    files.write_text(folder / ERROR_FILE, traceback.format_exc())
                else:
                    (folder / ERROR_FILE).unlink(missing_ok=True)
                    progress.console.print(_line(result), highlight=False, soft_wrap=True)
            progress.advance(runs_done)
            report.write(output, _results(output), missing)
    for name, reason in missing.items():
        Console(stderr=True).print(f"Missing: {name}: {reason}.", markup=False, highlight=False, soft_wrap=True)
    return missing


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name or Path(name).name != name or name == "..":
            msg = f"categories must be names of folders in the root, not paths: got '{name}'."
            raise ValueError(msg)


def _results(output: Path) -> list[dict[str, Any]]:
    """Results of all runs that have ever finished in an output folder."""
    found = (read_result(path.parent) for path in sorted(output.glob(f"*/seed_*/{RESULT_FILE}")))
    return [result for result in found if result is not None]


def _progress() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns)


def _shown(progress: Progress, task: TaskID) -> Callable[[int], None]:
    return lambda epoch: progress.update(task, completed=epoch)


def _line(result: dict[str, Any]) -> str:
    figures = ", ".join(f"{metric} {value:.4f}" for metric, value in result["metrics"].items())
    return f"{result['category']}, seed {result['seed']}: {figures} (student of epoch {result['epoch']})"
