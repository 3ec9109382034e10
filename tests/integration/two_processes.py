"""Train with two processes on a CPU and save the student; the test of the feature cache starts this file."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything

from anomalib_stfpm.data import MVTecLayout

from .conftest import quiet_engine, tiny_model


def main() -> None:
    """Train as the arguments say: images, teacher, results folder, cache budget."""
    root, teacher_file, results, budget = sys.argv[1:]
    seed_everything(0)
    model = tiny_model(Path(teacher_file), cache_budget=budget, exact_cache=True, evaluator=False)
    datamodule = MVTecLayout(root=root, category="part", num_workers=0, train_batch_size=2, seed=0)
    engine = quiet_engine(Path(results), max_epochs=3, strategy="ddp", devices=2)
    engine.fit(model, datamodule=datamodule)
    torch.save(model.model.student.state_dict(), Path(results) / f"{budget}-{engine.trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
