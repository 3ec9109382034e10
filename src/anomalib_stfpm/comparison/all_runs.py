"""All runs of a comparison, each in a process of its own, going on where they were interrupted."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.comparison import report
from anomalib_stfpm.comparison.conditions import Conditions
from anomalib_stfpm.comparison.contestant import Contestant, made_datamodule
from anomalib_stfpm.comparison.pretrained import pretrained
from anomalib_stfpm.comparison.record import CategoryResults, RunResult, record
from anomalib_stfpm.comparison.run import RESULT_FILE, Job
from anomalib_stfpm.results import environment, finite_json
from anomalib_stfpm.results.output_folder import read_json, remember_configuration
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cluster.jobs import Cluster, Failure, outcomes

_SIGKILL = 9  # which Windows has no name for
_NOT_REMEMBERED = {"time_limit", "rounds", "seconds"}  # conditions that may change without a model being another

LOG_FILE, OUTCOME_FILE, TIMING_FILE = "log.txt", "outcome.json", "timing.json"

Data = Mapping[str, Any]


@dataclass(frozen=True)
class _Run:
    category: str
    output: Path
    name: Path  # of its folder, below the output
    job: Job

    @property
    def folder(self) -> Path:
        return self.output / self.name

    @property
    def outcome(self) -> dict[str, Any] | None:
        """What became of it, once it has been tried."""
        return read_json(self.folder / OUTCOME_FILE)

    @property
    def is_finished(self) -> bool:
        return self.outcome is not None and self.outcome["problem"] is None

    @property
    def result(self) -> RunResult:
        outcome = self.outcome or {"problem": None}
        measured = read_json(self.folder / RESULT_FILE)
        return RunResult(self.job.contestant.name, self.job.seed, self.name, measured, outcome["problem"])


def compare(
    data: Mapping[str, Data],
    contestants: Sequence[Contestant],
    conditions: Conditions,
    output: Path,
    seeds: Sequence[int] = (0,),
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Train, test, export and time models on the same images, and report.

    A run (a category, a model, a seed) that has finished is not done again, even if its export has failed; any other is
    done from its start. The report is written again after every run.

    Args:
        data: By category, ``class_path`` and ``init_args`` of its datamodule.
        contestants: The models.
        conditions: What is the same for all models.
        output: Folder to write to.
        seeds: Seeds, each for a run of every model on every category. The models of the first are exported.
        cluster: A Ray cluster to train and test on, side by side; ``None`` runs one after the other on this machine.
            Exported models are timed on this machine in either case, so that their times can be compared.

    Returns:
        The record that the report is made from, see :func:`anomalib_stfpm.comparison.record.record`.

    Raises:
        OSError: If the teacher's weights are missing or out of reach, or the output cannot be written.
        ValueError: If an argument is not valid, ``output`` holds results of another configuration, or a machine of the
            cluster does not see it.
        KeyboardInterrupt: If the user interrupts it.

    Example:
        >>> from anomalib_stfpm.comparison import DEFAULT_MODELS
        >>> layout = "anomalib_stfpm.data.MVTecLayout"
        >>> data = {"screw": {"class_path": layout, "init_args": {"root": "images", "category": "screw"}}}
        >>> record = compare(data, DEFAULT_MODELS, Conditions(max_epochs=6), Path("compared"))  # doctest: +SKIP
        >>> compare(data, [], Conditions(), Path("compared"))
        Traceback (most recent call last):
        ...
        ValueError: models must be at least one, with names that differ: got [].
    """
    output = output if cluster is None else output.resolve()
    runs = _runs(data, contestants, conditions, output, seeds)
    _check(runs, conditions)
    kept = {name: value for name, value in asdict(conditions).items() if name not in _NOT_REMEMBERED}
    remember_configuration(output, finite_json.plain({"conditions": kept, "seed_exported": seeds[0]}))
    for category, of_category in data.items():
        remember_configuration(output / _as_file_name(category), finite_json.plain(of_category))
    for run in runs:
        remember_configuration(run.folder, finite_json.plain(asdict(run.job.contestant)))
    unreadable = {category: problem for category in data if (problem := _problem_of_images(data[category]))}
    about = {"data": dict(data), "conditions": asdict(conditions), "seeds": list(seeds)}
    about = finite_json.plain({**about, "environment": environment.describe()})

    def write_report() -> dict[str, Any]:
        categories = []
        for category in data:
            results = [run.result for run in runs if run.category == category and run.outcome is not None]
            timing = read_json(output / _as_file_name(category) / TIMING_FILE) or {}
            categories.append(CategoryResults(category, results, timing, unreadable.get(category)))
        made = record(about, categories)
        report.write(output, made)
        return made

    waiting = [run for run in runs if not run.is_finished and run.category not in unreadable]
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(runs), completed=len(runs) - len(waiting))

        def carry_out(run: _Run) -> str | None:
            progress.update(task, description=f"{run.category}, {run.job.contestant.name}, seed {run.job.seed}")
            return _carry_out(run)

        jobs = {run.name: partial(carry_out if cluster is None else _carry_out, run) for run in waiting}
        by_name = {run.name: run for run in waiting}
        for name, outcome in outcomes(jobs, cluster, output):
            run, problem = by_name[name], outcome.reason if isinstance(outcome, Failure) else outcome
            files.write_text(run.folder / OUTCOME_FILE, json.dumps({"problem": problem}) + "\n")
            progress.console.print(_line(run), highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)
            write_report()
        for category in data:
            progress.update(task, description=f"{category}, timing")
            _time([run for run in runs if run.category == category], output / _as_file_name(category), conditions)
    for category, problem in unreadable.items():
        Console(stderr=True).print(f"Missing: {category}: {problem}", markup=False, highlight=False, soft_wrap=True)
    return write_report()


def _runs(
    data: Mapping[str, Data],
    contestants: Sequence[Contestant],
    conditions: Conditions,
    output: Path,
    seeds: Sequence[int],
) -> list[_Run]:
    names = [contestant.name for contestant in contestants]
    for kind, given in (("models", names), ("categories", list(data))):
        if not given or len({_as_file_name(name) for name in given}) < len(given):
            msg = f"{kind} must be at least one, with names that differ: got {given}."
            raise ValueError(msg)
    argument_checks.seeds(seeds)
    return [
        _Run(
            category,
            output,
            Path(_as_file_name(category), _as_file_name(contestant.name), f"seed_{seed}"),
            Job(contestant, conditions, finite_json.plain(of_category), seed, exports=seed == seeds[0]),
        )
        for category, of_category in data.items()
        for seed in seeds
        for contestant in contestants
    ]


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"


def _check(runs: Sequence[_Run], conditions: Conditions) -> None:
    """Fail now where every run would."""
    for contestant in {run.job.contestant.name: run.job.contestant for run in runs}.values():
        with pretrained(conditions.backbone, None):
            contestant.make(conditions)
    if any(not run.is_finished for run in runs):
        teacher_weights.read(conditions.backbone, conditions.teacher_weights)


def _problem_of_images(data: Data) -> str | None:
    try:
        datamodule = made_datamodule(data)
        datamodule.prepare_data()
        datamodule.setup()
    except Exception as error:
        # Whatever it is, the other categories go on.
        return f"its images cannot be found ({_last_line(str(error)).rstrip('.')})."
    return None


def _carry_out(run: _Run) -> str | None:
    """Do a run in a process of its own; why it has not finished, if it has not."""
    run.job.write(run.folder)
    (run.folder / RESULT_FILE).unlink(missing_ok=True)  # of an attempt that came to nothing
    minutes = run.job.conditions.time_limit
    log = run.folder / LOG_FILE
    command = [sys.executable, "-X", "faulthandler", "-m", "anomalib_stfpm.comparison.run", str(run.folder)]
    # The process ends with its standard input, that is, also when this one is killed.
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
    try:
        code = process.wait(timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"It was stopped after {minutes:g} minutes, the time_limit."
    except BaseException:
        _kill(process)
        raise
    finally:
        if process.stdin is not None:
            process.stdin.close()
    if code == 0:
        return None
    if code == -_SIGKILL:
        return "The system killed it, most likely because memory ran out."
    if code < 0:
        return f"It crashed ({signal.strsignal(-code)}); its log is '{log}'."
    return f"{_last_line(log.read_text(encoding='utf-8', errors='replace'))} (its log is '{log}')"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


def _time(runs: Sequence[_Run], folder: Path, conditions: Conditions) -> None:
    """Time all exported models of a category in turns, unless that is done."""
    models = {}
    for run in runs:
        for kind, exported in ((run.result.measured or {}).get("exported") or {}).items():
            path = run.folder / exported["path"]
            if path.is_file():
                changed = path.stat().st_mtime_ns
                models[str(path)] = {"model": run.job.contestant.name, "kind": kind, "changed": changed}
    how = {"models": models, "rounds": conditions.rounds, "seconds": conditions.seconds}
    before = read_json(folder / TIMING_FILE)
    if not models or (before is not None and before["how"] == how and before["problem"] is None):
        return
    timings, problem = _timings(list(models), folder, conditions)
    if problem is not None:  # one that cannot be loaded costs the others nothing
        loadable = [path for path in models if _can_be_loaded(path)]
        left_out = ", ".join(path for path in models if path not in loadable)
        if loadable and left_out:
            timings, problem = _timings(loadable, folder, conditions)
            problem = f"OpenVINO cannot load {left_out}{f', and {problem}' if problem else ''}."
    for timing in timings:
        exported = models[timing["model"]]
        timing |= {"model": exported["model"], "kind": exported["kind"]}
    made = {"how": how, "timings": timings, "problem": problem}
    files.write_text(folder / TIMING_FILE, json.dumps(made, indent=2) + "\n")


def _timings(models: list[str], folder: Path, conditions: Conditions) -> tuple[list[dict[str, Any]], str | None]:
    """Time models in a process of its own; what went wrong, if anything has."""
    temporary = folder / f".{TIMING_FILE}"
    command = [sys.executable, "-m", "anomalib_stfpm_deploy", "time", "--output", str(temporary), "--model", *models]
    options = ["--rounds", str(conditions.rounds), "--seconds", str(conditions.seconds)]
    try:
        limit = 60 * conditions.time_limit
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return [], f"timing took longer than {conditions.time_limit:g} minutes, the time_limit"
    timings = (read_json(temporary) or {}).get("timings", [])
    temporary.unlink(missing_ok=True)
    return timings, None if done.returncode == 0 else f"timing failed: {_last_line(done.stderr or done.stdout)}"


def _can_be_loaded(model: str) -> bool:
    from anomalib_stfpm_deploy.network import precisions_of_this_machine  # needs OpenVINO

    load = [sys.executable, "-m", "anomalib_stfpm_deploy.timing", model]
    tried = (subprocess.run([*load, name], capture_output=True, check=False) for name in precisions_of_this_machine())
    return all(one.returncode == 0 for one in tried)


def _line(run: _Run) -> str:
    result = run.result
    metrics = (result.measured or {}).get("metrics", {})
    figures = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
    said = ". ".join(part for part in (figures, result.problem) if part)
    return f"{run.category}, {result.model}, seed {result.seed}: {said}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "It said nothing"
