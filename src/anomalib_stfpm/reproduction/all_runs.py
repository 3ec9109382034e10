"""All runs of a reproduction: every category with every seed, resumed if interrupted."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.lightning_model import Stfpm
from anomalib_stfpm.reproduction import category, report
from anomalib_stfpm.reproduction.protocol import Protocol
from anomalib_stfpm.reproduction.run import RESULT_FILE, configuration, run
from anomalib_stfpm.results.output_folder import read_json, remember_configuration
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cluster.jobs import Cluster, Failure, outcomes

ERROR_FILE = "error.txt"


def reproduce(
    make_model: Callable[[], AnomalibModule],
    protocol: Protocol,
    root: Path,
    output: Path,
    categories: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    cluster: Cluster | None = None,
) -> dict[str, str]:
    """Train and test categories as the paper does and compare with the published results.

    A run is one category with one seed. Finished runs are not repeated, an interrupted run resumes from its last epoch,
    and a run that fails does not stop the others. ``output`` gets ``results.json``, ``results.csv`` and ``results.md``,
    updated after every run, and for each run a folder with its result and its student.

    Args:
        make_model: Makes the model, with the evaluator of :func:`evaluator`.
        protocol: Training settings.
        root: Folder that holds a folder for each category, in MVTec AD's layout.
        output: Folder to write to.
        categories: Names of the categories; ``None`` takes all in ``root``.
        seeds: Every category is run with each of them.
        cluster: A Ray cluster to run on, side by side; ``None`` runs one after the other in this process.

    Returns:
        For each category without a result, the reason.

    Raises:
        FileNotFoundError: If ``root`` has no category, or the teacher's weights are missing.
        ConnectionError: If the hub with the teacher's weights is out of reach, or no cluster answers.
        ValueError: If an argument is not valid, ``output`` holds results of another configuration, or a machine of the
            cluster does not see it.
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
    names = category.named_categories(root, categories)
    argument_checks.seeds(seeds)
    model = make_model()
    folders = {(name, seed): output / name / f"seed_{seed}" for name in names for seed in seeds}
    unfinished = {each for each, folder in folders.items() if read_json(folder / RESULT_FILE) is None}
    if unfinished and isinstance(model, Stfpm):
        teacher_weights.read(model.hparams["backbone"], model.teacher_weights)  # fail here rather than in every run
    remember_configuration(output, {"root": str(root.resolve()), **configuration(model, protocol)})
    missing: dict[str, str] = {}
    for name in {name: None for name, seed in folders if (name, seed) in unfinished}:
        if problem := category.problem(root / name):
            missing[name] = problem

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as progress:
        runs = [each for each in folders if each in unfinished and each[0] not in missing]
        runs_done = progress.add_task("runs", total=len(folders), completed=len(folders) - len(runs))
        on_epoch = _ignore if cluster is not None else partial(_show_epoch, progress, progress.add_task("epochs"))
        given = (make_model, protocol, root.resolve())
        jobs = {
            (name, seed): partial(
                run,
                *given,
                name,
                seed,
                folders[name, seed].resolve(),
                partial(on_epoch, f"{name}, seed {seed}", protocol.max_epochs),
            )
            for name, seed in runs
        }

        def report_all() -> None:
            # Earlier commands may have run other categories and seeds in the same folder.
            finished = (read_json(path) for path in sorted(output.glob(f"*/seed_*/{RESULT_FILE}")))
            report.write(output, [result for result in finished if result is not None], missing)

        report_all()
        for (name, seed), outcome in outcomes(jobs, cluster, output):
            error_file = folders[name, seed] / ERROR_FILE
            if isinstance(outcome, Failure):
                missing[name] = f"{outcome.reason} (see '{error_file}')"
                files.write_text(error_file, outcome.trace)
            else:
                error_file.unlink(missing_ok=True)
                progress.console.print(_line(outcome), highlight=False, soft_wrap=True)
            progress.advance(runs_done)
            report_all()
    print_missing(missing)
    return missing


def print_missing(missing: Mapping[str, str]) -> None:
    """Say on standard error which categories have no result, and why."""
    for name, reason in missing.items():
        Console(stderr=True).print(f"Missing: {name}: {reason}.", markup=False, highlight=False, soft_wrap=True)


def _line(result: dict[str, Any]) -> str:
    figures = ", ".join(f"{metric} {value:.4f}" for metric, value in result["metrics"].items())
    return f"{result['category']}, seed {result['seed']}: {figures} (student of epoch {result['epoch']})"


def _show_epoch(progress: Progress, task: TaskID, run: str, epochs: int, epoch: int) -> None:
    progress.update(task, description=run, total=epochs, completed=epoch)


def _ignore(run: str, epochs: int, epoch: int) -> None:
    del run, epochs, epoch
