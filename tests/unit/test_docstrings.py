"""Every class and function in docs/api.md has an example that runs."""

import doctest
import inspect
import re
from importlib import import_module
from types import ModuleType

import pytest

from tests.readme import REPOSITORY

DOCUMENTED = re.findall(r"automodule:: (\S+)", (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8"))


def public(module: ModuleType) -> list[str]:
    """Return the names of the classes and functions of a module that docs/api.md documents."""
    defined = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [name for name in defined if not name.startswith("_")])
    return [
        name for name in names if inspect.isclass(getattr(module, name)) or inspect.isfunction(getattr(module, name))
    ]


NAMES = [(module, name) for module in DOCUMENTED for name in public(import_module(module))]


def test_every_package_with_public_names_is_documented() -> None:
    packages = {path.parent for path in (REPOSITORY / "src").rglob("__init__.py") if "__all__" in path.read_text()}
    names = {".".join(path.relative_to(REPOSITORY / "src").parts) for path in packages}
    assert names
    assert names <= set(DOCUMENTED)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda part: part.rpartition(".")[2])
def test_every_public_name_has_an_example_that_runs(module: str, name: str) -> None:
    examples = doctest.DocTestParser().get_examples(getattr(import_module(module), name).__doc__ or "")
    run = [one for one in examples if not one.options.get(doctest.SKIP)]
    assert [one for one in run if not one.source.startswith(("from ", "import "))], (
        "its docstring has no example that runs"
    )
