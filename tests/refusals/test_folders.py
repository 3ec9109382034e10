"""Output folders that cannot be written to, hold other files, or have names that lead elsewhere."""

import json
import os
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_stfpm import Stfpm, import_checkpoint
from anomalib_stfpm.comparison import Conditions, Contestant, compare, report
from anomalib_stfpm.comparison.record import CategoryResults, RunResult, record
from anomalib_stfpm.data.texture_demo import write_category
from anomalib_stfpm.results.output_folder import read_json, remember_configuration
from anomalib_stfpm.verbs.reproduce import main as reproduce
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.infer.job import HEAT_MAPS
from anomalib_stfpm_deploy.results import Result, Results
from tests.conftest import Hostile
from tests.integration.conftest import full_disk
from tests.unit.comparison.records import measured
from tests.unit.reproduction.test_original_checkpoint import publish, random_resnet

from .harness import Run, assert_refused, files_below, refused, untouched

pytestmark = pytest.mark.integration

MADE_WITH = {"model": "a", "precision": "f32"}


def results(folder: Path, images: int) -> None:
    """Write results of so many images, as ``infer`` does."""
    made = Results(folder, MADE_WITH)
    for number in range(images):
        made.add(Result(f"{number}.png", "1 2", 0.5, False))
    made.finish([f"{number}.png" for number in range(images)])


def published(folder: Path) -> Path:
    """A student as the authors publish theirs."""
    return publish(random_resnet(2), folder / "best.pth.tar")


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "a text": lambda folder, _: files.write_text(folder / "a.txt", "x" * 100_000),
    "results of infer": lambda folder, _: results(folder / "results", 1_000),
    "a configuration": lambda folder, _: remember_configuration(folder / "out", {"a": "x" * 100_000}),
    "the demo category": lambda folder, _: write_category(folder / "demo", "brick"),
    "an exported model": lambda folder, checkpoint: Stfpm.load_from_checkpoint(checkpoint).to_torch(folder / "model"),
    "a heat map": lambda folder, _: files.write_bytes(folder / HEAT_MAPS / "1.png", bytes(100_000), durable=False),
}


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such limit")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_nothing_half_written(
    write: Callable[[Path, Path], object], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("of before", encoding="utf-8")
    with refused("cannot be written (", tmp_path), full_disk(5_000):
        write(tmp_path, checkpoint)
    whole = [path for path in files_below(tmp_path) if path.is_file() and path.suffix in {".pt", ".json", ".csv"}]
    assert whole == []


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_in_place_of_a_folder_is_named(
    write: Callable[[Path, Path], object], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with untouched(tmp_path), pytest.raises(OSError, match=r"cannot be written \((File exists|Not a directory)\)"):
        write(tmp_path / "file", checkpoint)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such limit")
def test_an_imported_checkpoint_is_written_atomically(teacher_file: Path, tmp_path: Path) -> None:
    path = published(tmp_path)
    with refused("student.ckpt' cannot be written (", tmp_path), full_disk(1_000_000):
        import_checkpoint(path, tmp_path / "student.ckpt", teacher_file)
    assert {path.name for path in tmp_path.iterdir()} == {"best.pth.tar"}


def holding(name: str, text: str) -> Callable[[Path], object]:
    """An output folder with a file in it."""
    return lambda output: written(output / name, text)


def written(path: Path, text: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def leading_to(name: str) -> str:
    result = {"picture": "1.png", "version": "1 2", "score": 0.5, "heat_map": name}
    return json.dumps({"made_with": MADE_WITH, "results": [result]})


INFER_OUTPUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda output: output.write_text("mine"), "output' cannot be written (File exists)."),
    "heat maps in a file": (lambda output: written(output / HEAT_MAPS), "cannot be written (File exists)."),
    "results in a folder": (
        lambda output: (output / "results.json").mkdir(parents=True),
        "cannot be written (Is a",
    ),
    "other JSON": (
        holding("results.json", '{"mine": 1}'),
        "is not a list of results: give",
    ),
    "no JSON": (
        holding("results.json", "mine"),
        "is not a list of results: give",
    ),
    "a list": (
        holding("results.json", "[]"),
        "is not a list of results: give another output fo",
    ),
    "bytes": (lambda output: written(output / "results.json").write_bytes(b"\xff\xfe"), "is not a list of results"),
    "made with a list": (
        holding("results.json", '{"made_with": [1], "results": []}'),
        "is not a list of results: give another output folder.",
    ),
    "another model": (
        holding("results.json", '{"made_with": {"model": "b"}, "results": []}'),
        "holds results that were made with another model",
    ),
    "a way out": (
        holding("results.json", leading_to("../../elsewhere.png")),
        "is not a list of results: give another output folder.",
    ),
    "a way to the root": (
        holding("results.json", leading_to("/elsewhere.png")),
        "is not a list of results: give another output folder.",
    ),
    "no journal": (
        holding("results.partial.jsonl", "mine\n"),
        "is not a list of results: give",
    ),
    "a journal of lists": (
        holding("results.partial.jsonl", "[1]\n[2]\n"),
        "is not a list of re",
    ),
    "another journal": (
        holding("results.partial.jsonl", '{"model": "b"}\n'),
        "holds results that were made with another model",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), INFER_OUTPUTS.values(), ids=INFER_OUTPUTS)
def test_infer_leaves_files_of_others_in_its_output_folder_alone(
    make: Callable[[Path], object], sentence: str, exported: Path, images: Path, tmp_path: Path, run: Run
) -> None:
    make(tmp_path / "output")
    with untouched(tmp_path):
        given = images / "part" / "test" / "good"
        done = run("infer", "--model", exported, "--input", given, "--output", tmp_path / "output")
    assert done.code == 120
    assert_refused(done, sentence)


def test_a_symbolic_link_in_the_output_is_replaced_and_not_followed(
    exported: Path, images: Path, tmp_path: Path, run: Run
) -> None:
    mine = written(tmp_path / "mine.txt")
    output = tmp_path / "output"
    for name in ("results.csv", "results.json"):
        output.mkdir(exist_ok=True)
        (output / name).symlink_to(tmp_path / "nothing.txt")
    (output / HEAT_MAPS).mkdir()
    (output / HEAT_MAPS / "0.png.png").symlink_to(mine)
    given = images / "part" / "test" / "good"
    assert run("infer", "--model", exported, "--input", given, "--output", output).code == 0
    assert mine.read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "nothing.txt").exists()


@pytest.mark.parametrize("text", ["", "mine", "[1]", "{", '"text"', "\ufeff{}"])
def test_another_programs_configuration_file_is_rejected_and_kept(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "configuration.json", text)
    with refused(f"'{path}' is damaged, or of something else: remove it, or give another output folder.", tmp_path):
        remember_configuration(tmp_path, {"epochs": 1})
    with refused("is damaged, or of something else"):
        read_json(path)


NAMES = ["../../up", "/root", "..", ".", "a/b", "a\\b", "\n", "<script>alert(1)</script>", "傷", "CON", "n" * 200]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
@pytest.mark.parametrize("kind", ["category", "model"])
def test_no_name_in_a_comparison_writes_outside_its_output(
    kind: str, name: str, images: Path, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomalib_stfpm.comparison.all_runs._carry_out", lambda _: "Nothing is trained here.")
    output = tmp_path / "output"
    category, model = (name, "Padim") if kind == "category" else ("part", name)
    data = {
        "class_path": "anomalib_stfpm.data.MVTecLayout",
        "init_args": {"root": str(images), "category": "part", "num_workers": 0},
    }
    contestant = Contestant("anomalib.models.Padim", model, {"n_features": 50})
    before = set(tmp_path.rglob("*"))
    compare({category: data}, [contestant], Conditions("resnet18.tv_in1k", str(teacher_file)), output)
    new = set(tmp_path.rglob("*")) - before
    assert all(path.resolve().is_relative_to(output) for path in new)
    assert len(list(output.rglob("outcome.json"))) == 1
    page = (output / report.PAGE_FILE).read_text(encoding="utf-8")
    assert page.count("<script>") == 1  # the page's own


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    markup = "--><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    folder = Path("part", "model", "seed_0")
    one = measured(tmp_path / folder)
    for group in one["images"].values():
        for shown in group:
            shown["path"] = f"images/{markup.replace('/', '')}/{markup.replace('/', '')}.png"
    one["notes"] = [markup]
    one["problems"] = [markup]
    runs = [RunResult(markup, 0, folder, one, markup)]
    made = record({"data": {markup: {"root": markup}}, "seeds": [0]}, [CategoryResults(markup, runs, {}, None)])
    report.write(tmp_path, made)
    page = (tmp_path / report.PAGE_FILE).read_text(encoding="utf-8")
    assert "alert(1)" in page
    tags = Tags()
    tags.feed(page)
    assert [name for name, _ in tags.found if name == "script"] == ["script"]  # the page's own
    images = [attributes for name, attributes in tags.found if name == "img"]
    assert images
    assert all(attributes.keys() == {"src", "alt"} for attributes in images)
    assert all((attributes["src"] or "").startswith("data:") for attributes in images)


class Tags(HTMLParser):
    """The tags of a page, as a browser finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_record_cannot_show_an_image_outside_its_folder(tmp_path: Path) -> None:
    secret = written(tmp_path / "secret.jpg", "secret")
    folder = Path("part", "model", "seed_0")
    one = measured(tmp_path / folder)
    for group in one["images"].values():
        for shown in group:
            shown["picture"] = f"../../../../{secret.name}"
    made = record({"seeds": [0]}, [CategoryResults("part", [RunResult("model", 0, folder, one, None)], {}, None)])
    with pytest.raises(FileNotFoundError, match=r"images.secret\.jpg"):
        report.write(tmp_path, made)


def test_a_resumed_reproduction_runs_no_code_in_its_checkpoint(
    images: Path, teacher_file: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "it ran"
    output = tmp_path / "output"
    hostile = output / "part" / "seed_0" / "model.ckpt"
    hostile.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "more": Hostile(ran)}, hostile)
    arguments: list[Any] = [
        "--root", images, "--output", output, "--model.teacher_weights", teacher_file,
        "--model.input_size", "[32, 32]", "--protocol.max_epochs", "1", "--protocol.accelerator", "cpu",
        "--protocol.val_split_ratio", "0.5",
    ]  # fmt: skip
    with untouched(images):
        assert reproduce([str(argument) for argument in arguments]) == 0
    assert not ran.exists()
    assert not hostile.exists()  # trained again from the start, and tidied up


@pytest.mark.parametrize("text", ["mine", "[1]"])
@pytest.mark.parametrize("name", ["result.json", "../../configuration.json"])
def test_a_reproduction_rejects_damaged_results(
    name: str, text: str, images: Path, teacher_file: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "output/part/seed_0").mkdir(parents=True)
    written(tmp_path / "output/part/seed_0" / name, text)
    with untouched(tmp_path):
        done = run(
            "reproduce", "--root", images, "--output", tmp_path / "output", "--model.teacher_weights", teacher_file
        )
    assert_refused(done, "is damaged, or of something else: remove it, or give another output folder.")
