"""Options that several verbs have. This is no verb."""

from jsonargparse import ArgumentParser, Namespace

from anomalib_stfpm.lightning_model import Stfpm
from anomalib_stfpm_deploy.cluster.connection import HELP
from anomalib_stfpm_deploy.cluster.jobs import Cluster

_GPUS = {"cpu": 0.0, "gpu": 1.0, "cuda": 1.0}
"""GPUs of a job by the accelerator that it is told to train on. Any other takes one where the cluster has some."""


def add_model(parser: ArgumentParser) -> None:
    """Add the arguments of the model, without the components that a verb chooses."""
    components: set[str | int] = {"pre_processor", "post_processor", "evaluator", "visualizer"}
    parser.add_class_arguments(Stfpm, "model", skip=components, instantiate=False)


def add_cluster(parser: ArgumentParser) -> None:
    """Add the options of a cluster."""
    parser.add_argument("--cluster", type=str | None, help=f"run side by side on a Ray cluster. {HELP}")
    parser.add_argument("--cpus_per_job", type=int, default=1, help="CPUs and threads of each job on the cluster")
    parser.add_argument(
        "--gpus_per_job",
        type=float | None,
        help="GPUs of each job, or a share of one; by default 1 if the cluster has any and the accelerator is not cpu",
    )


def cluster_of(given: Namespace, accelerator: str) -> Cluster | None:
    """Return what the options say; ``None`` without a cluster.

    Raises:
        ValueError: If a number is out of range.
    """
    if given.cluster is None:
        return None
    gpus = _GPUS.get(accelerator) if given.gpus_per_job is None else given.gpus_per_job
    return Cluster(given.cluster, given.cpus_per_job, gpus)
