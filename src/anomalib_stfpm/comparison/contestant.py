"""A model that is compared, and how it is made under the conditions that are the same for all."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone.feature_pyramid import available_levels
from anomalib_stfpm.comparison.conditions import Conditions
from anomalib_stfpm.lightning_model import Stfpm


@dataclass(frozen=True)
class Contestant:
    """A model to compare.

    Args:
        class_path: Class path of a model of anomalib.
        name: What reports call it; the class's name unless given.
        init_args: Arguments of the class. What the conditions say is filled in where they do not.
        max_epochs: Number of epochs, if not that of the conditions.
        train_batch_size: Images in a training batch, if not the datamodule's.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> Contestant("anomalib.models.Padim", init_args={"n_features": 100}).name
        'Padim'
    """

    class_path: str
    name: str = ""
    init_args: dict[str, Any] = field(default_factory=dict)
    max_epochs: int | None = None
    train_batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers, and give it a name."""
        for option in ("max_epochs", "train_batch_size"):
            value = getattr(self, option)
            if value is not None:
                argument_checks.count(f"{option} of a model", value, minimum=1)
        if not self.name:
            object.__setattr__(self, "name", self.class_path.rpartition(".")[2])

    @classmethod
    def read(cls, given: str | Mapping[str, Any]) -> "Contestant":
        """Read what a user has given.

        Args:
            given: A class path, or a mapping with ``class_path`` and any of the other arguments.

        Returns:
            The contestant.

        Raises:
            ValueError: If it is not one.
        """
        if isinstance(given, str):
            return cls(given)
        known = list(inspect.signature(cls).parameters)
        unknown = [key for key in given if key not in known]
        if unknown or not isinstance(given.get("class_path"), str):
            problem = f"'{unknown[0]}' is not known" if unknown else "class_path is missing"
            msg = f"A model to compare is a class path, or has {', '.join(known)}: {problem} in {dict(given)}."
            raise ValueError(msg)
        return cls(**given)

    def make(self, conditions: Conditions) -> AnomalibModule:
        """Make the model.

        Where the class has a ``backbone``, it and the pre-processing are those of the conditions, and ``layers`` are
        the levels of the same strides that the class takes by default. Other models keep their own pre-processing.

        Args:
            conditions: What is the same for all models.

        Returns:
            The model, without evaluator and visualizer.

        Raises:
            ValueError: If there is no such class, or it refuses its arguments.
        """
        init_args = dict(self.init_args)
        if "input_size" in init_args and "pre_processor" not in init_args:
            msg = f"{self.name} has an input_size, but all models see the same images: give conditions.input_size."
            raise ValueError(msg)
        parameters = inspect.signature(class_of(self.class_path)).parameters
        has_backbone = "backbone" in parameters
        if has_backbone:
            init_args.setdefault("backbone", conditions.backbone)
            if "layers" not in init_args:
                init_args |= _layers(parameters, init_args["backbone"], self.name)
        if "teacher_weights" in parameters:
            init_args.setdefault("teacher_weights", conditions.teacher_weights)
        model: AnomalibModule = made(
            AnomalibModule, self.class_path, {**init_args, "evaluator": False, "visualizer": False}, self.name
        )
        if "pre_processor" not in self.init_args:
            backbone = {"backbone": init_args["backbone"]} if has_backbone else {}
            maker: Any = Stfpm if has_backbone else model
            model.pre_processor = maker.configure_pre_processor(conditions.input_size, **backbone)
        return model


DEFAULT_MODELS = (
    Contestant("anomalib_stfpm.Stfpm", "Stfpm"),
    Contestant("anomalib.models.Stfpm", "anomalib's Stfpm"),
    # The smallest share of its paper: choosing takes time in proportion, on a CPU 20 minutes and more for 10 %.
    Contestant("anomalib.models.Patchcore", "PatchCore", {"coreset_sampling_ratio": 0.01}),
    # What anomalib draws for a ResNet-18, and asks for with any other backbone.
    Contestant("anomalib.models.Padim", "PaDiM", {"n_features": 100}),
)


def class_of(class_path: str, base: type = AnomalibModule) -> type:
    """Find a class.

    Example:
        >>> class_of("anomalib.models.Padim").__name__
        'Padim'
    """
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not (isinstance(found, type) and issubclass(found, base)):
        msg = f"'{class_path}' is not the class path of an {base.__name__}, as anomalib.models.Padim is of a model."
        raise ValueError(msg)
    return found


def made(base: type, class_path: str, init_args: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    """Make an instance as anomalib's command line would."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "made", fail_untyped=False, required=True)
    try:
        parsed = parser.parse_object({"made": {"class_path": class_path, "init_args": dict(init_args)}})
        return parser.instantiate_classes(parsed).made
    except (ArgumentError, ValueError, TypeError) as error:
        said = argument_checks.reason_in(str(error)) or " ".join(str(error).split())
        msg = f"{name} cannot be made: {said}"
        raise ValueError(msg) from error


def made_datamodule(data: Namespace | Mapping[str, Any]) -> AnomalibDataModule:
    """Make a datamodule."""
    datamodule: AnomalibDataModule = made(
        AnomalibDataModule, data["class_path"], data.get("init_args") or {}, "The datamodule"
    )
    return datamodule


def _layers(parameters: Mapping[str, inspect.Parameter], backbone: str, name: str) -> dict[str, list[str]]:
    """Return as ``layers`` the levels of the strides that a model takes by default, if it says which."""
    layers, default = getattr(parameters.get("layers"), "default", None), parameters["backbone"].default
    if not isinstance(default, str) or not isinstance(layers, list | tuple):
        return {}
    levels = available_levels(default)
    strides = [levels[layer] for layer in layers if layer in levels]
    by_stride = {stride: level for level, stride in available_levels(backbone).items()}
    missing = [stride for stride in strides if stride not in by_stride]
    if missing:
        msg = f"'{backbone}' has no level of stride {missing[0]} for {name}: give its layers in init_args."
        raise ValueError(msg)
    return {"layers": [by_stride[stride] for stride in strides]} if strides else {}
