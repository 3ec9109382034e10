"""Assert that wrong input gives a one-sentence error and an exit code other than 0, and changes no file."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

Files = dict[Path, tuple[str, object]]


def files_below(folder: Path) -> Files:
    """What kind of thing every path is, and what it holds."""
    found: Files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = "link", path.readlink()
        elif path.is_file():
            found[path] = "file", path.read_bytes()
        else:
            found[path] = "other", path.is_dir()
    return found


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Assert that what is there before is there afterwards, as it was, and that no half-written file is left."""
    before = files_below(folder)
    yield
    after = files_below(folder)
    assert {path: after.get(path) for path in before} == before
    hidden = [path for path in after.keys() - before.keys() if path.name.startswith(".") and path.is_file()]
    assert [path for path in hidden if path.suffix != ".lock"] == []


@contextmanager
def refused(sentence: str, folder: Path | None = None) -> Iterator[None]:
    """Assert that an error of the kinds that users are told of is raised, whose text is one sentence."""
    with untouched(folder) if folder is not None else nullcontext():
        with pytest.raises((ValueError, OSError)) as error:
            yield
        said = str(error.value)
        assert sentence in said
        assert_is_one_sentence(said)


def assert_is_one_sentence(said: str) -> None:
    assert "\n" not in said.strip()
    assert said.rstrip().endswith((".", "?"))


@dataclass(frozen=True)
class Done:
    """What a command has come to."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""


Run = Callable[..., Done]


def in_this_process(
    main: Callable[[], object],
    command: Sequence[object],
    capture: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Done:
    """Run a command line, of which the first word is the program, and say what the user would see of it."""
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    capture.readouterr()
    said = ""
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        said = end.code if isinstance(end.code, str) else ""
    except Exception as error:
        # Python would print it after a traceback.
        code, said = 1, f"Traceback\n{type(error).__name__}: {error}"
    output = capture.readouterr()
    return Done(code, f"{output.out}{output.err}{said}")


def assert_refused(done: Done, sentence: str) -> None:
    """Assert that a command of this package has ended with one sentence and no traceback."""
    assert done.code != 0, done.output
    assert sentence in done.output
    assert "Traceback" not in done.output
    if done.last_line.startswith("anomalib-stfpm: error: "):  # and not what argparse says of an option
        assert_is_one_sentence(done.last_line)
