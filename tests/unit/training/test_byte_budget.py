"""The cache budget is what the user gives, or half of the free memory, and that of the device first."""

from pathlib import Path

import psutil
import pytest
import torch

from anomalib_stfpm.training.cache.byte_budget import ByteBudget, budgets, free_memory, parse_budget

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0, 0), ("0", 0), (500, 500), ("2kB", 2000), ("1.5 GB", 1_500_000_000), ("2GiB", 2**31), ("3m", 3_000_000)],
)
def test_a_budget_may_have_a_unit(given: int | str, expected: int) -> None:
    assert parse_budget(given) == expected


@pytest.mark.parametrize("given", [-1, "-1", "much", "", "2TBB", "nan", True])
def test_an_invalid_budget_is_rejected(given: int | str) -> None:
    with pytest.raises(ValueError, match="cache_budget must be 'auto' or a number of bytes such as 500MB"):
        parse_budget(given)


@pytest.fixture
def _a_thousand_bytes_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_stfpm.training.cache.byte_budget.free_memory", lambda: 1000)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (600 if device == GPU else 0, 10_000))


@pytest.mark.usefixtures("_a_thousand_bytes_are_free")
@pytest.mark.parametrize(
    ("budget", "device", "processes", "expected"),
    [
        ("auto", CPU, 1, {CPU: 500}),
        ("auto", GPU, 1, {GPU: 300, CPU: 500}),
        ("auto", GPU, 2, {GPU: 300, CPU: 250}),  # each process has a GPU of its own
        (100, CPU, 4, {CPU: 25}),
        (100, GPU, 1, {GPU: 100, CPU: 0}),
        (700, GPU, 1, {GPU: 300, CPU: 400}),
        (0, GPU, 1, {CPU: 0}),
    ],
)
def test_a_budget_is_for_the_device_first_of_which_half_stays_free(
    budget: int | str, device: torch.device, processes: int, expected: dict[torch.device, int]
) -> None:
    given = budgets(parse_budget(budget), device, processes)
    assert {each.device: each.left for each in given} == expected


@pytest.mark.usefixtures("_a_thousand_bytes_are_free")
def test_jobs_that_share_a_machine_share_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALIB_STFPM_JOBS_PER_MACHINE", "5")
    assert budgets(parse_budget("auto"), CPU)[0].left == 100
    assert budgets(parse_budget("500"), CPU)[0].left == 500


def test_no_more_is_granted_than_is_left() -> None:
    budget = ByteBudget(CPU, 100)
    assert [budget.take(30, 2), budget.take(30, 5), budget.take(10, 5)] == [2, 1, 1]


def test_free_memory_respects_the_limit_of_a_container(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 2000\ninactive_file 1000\n")
    assert free_memory(tmp_path) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 5000
