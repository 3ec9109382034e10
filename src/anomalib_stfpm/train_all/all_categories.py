"""All categories of a root: each a job, resumed if interrupted."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.lightning_model import Stfpm
from anomalib_stfpm.reproduction.all_runs import ERROR_FILE, print_missing
from anomalib_stfpm.reproduction.category import named_categories
from anomalib_stfpm.reproduction.protocol import Protocol
from anomalib_stfpm.reproduction.run import RESULT_FILE, configuration
from anomalib_stfpm.results.output_folder import read_json, remember_configuration
from anomalib_stfpm.train_all import table
from anomalib_stfpm.train_all.one_category import run
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cluster.jobs import Cluster, Failure, outcomes

COMPRESSIONS = ("fp16", "int8", "int8_ptq")
"""Compressions that need no images with defects for validation, which there are none of here."""


def train_all(
    make_model: Callable[[], Stfpm],
    protocol: Protocol,
    root: Path,
    output: Path,
    categories: Sequence[str] | None = None,
    seed: int = 0,
    compression_type: str | None = None,
    cluster: Cluster | None = None,
) -> dict[str, str]:
    """Train a model for every category of a root, and export each to OpenVINO.

    A category that is finished is not trained again, an interrupted one resumes from its last epoch, and one that fails
    does not stop the others. ``output`` gets ``models.csv`` and ``models.md``, updated after every category, and for
    each category a folder with ``student.ckpt``, ``weights/openvino/model.xml`` and ``result.json``.

    Args:
        make_model: Makes the model. It is called after seeding.
        protocol: Training settings.
        root: Folder that holds a folder for each category, in MVTec AD's layout. A category may have no test images.
        output: Folder to write to.
        categories: Names of the categories; ``None`` takes all in ``root``.
        seed: Seed of the student's weights, the choice of held-out images and the order of the others.
        compression_type: Of the exported model, such as ``"int8_ptq"``; ``None`` for 32 bits.
        cluster: A Ray cluster to train on, side by side; ``None`` trains one after the other in this process.

    Returns:
        For each category without a model, the reason.

    Raises:
        FileNotFoundError: If ``root`` has no category, or the teacher's weights are missing.
        ConnectionError: If the hub with the teacher's weights is out of reach, or no cluster answers.
        ValueError: If an argument is not valid, ``output`` holds models of another configuration, or a machine of the
            cluster does not see it.
        KeyboardInterrupt: If the user interrupts it.

    Example:
        >>> train_all(Stfpm, Protocol(), Path("images"), Path("models"))  # doctest: +SKIP
        {}
        >>> train_all(Stfpm, Protocol(), Path("nowhere"), Path("models"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: 'nowhere' is not a folder: give the one that holds a folder for each category, ...
    """
    names = named_categories(root, categories)
    argument_checks.seeds([seed])
    if compression_type not in (None, *COMPRESSIONS):
        msg = f"compression_type must be one of {', '.join(COMPRESSIONS)}: got '{compression_type}'."
        raise ValueError(msg)
    model = make_model()
    waiting = [name for name in names if read_json(output / name / RESULT_FILE) is None]
    if waiting:
        teacher_weights.read(model.hparams["backbone"], model.teacher_weights)  # fail here rather than in every job
    kept = {"root": str(root.resolve()), "seed": seed, "compression_type": compression_type}
    remember_configuration(output, {**kept, **configuration(model, protocol)})
    missing: dict[str, str] = {}

    def write_table() -> None:
        # Earlier commands may have trained other categories in the same folder.
        finished = (read_json(path) for path in sorted(output.glob(f"*/{RESULT_FILE}")))
        table.write(output, [result for result in finished if result is not None], missing)

    given = (make_model, protocol, root.resolve())
    jobs = {name: partial(run, *given, name, seed, compression_type, (output / name).resolve()) for name in waiting}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        done = progress.add_task("categories", total=len(names), completed=len(names) - len(waiting))
        write_table()
        for name, outcome in outcomes(jobs, cluster, output):
            error_file = output / name / ERROR_FILE
            if isinstance(outcome, Failure):
                missing[name] = f"{outcome.reason.rstrip('.')} (see '{error_file}')"
                files.write_text(error_file, outcome.trace)
            else:
                error_file.unlink(missing_ok=True)
                progress.console.print(f"{name}: {outcome['exported']}", highlight=False, markup=False, soft_wrap=True)
            progress.advance(done)
            write_table()
    print_missing(missing)
    return missing
