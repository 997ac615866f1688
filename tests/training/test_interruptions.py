"""Recipes that are interrupted in the middle of each of their fits."""

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.training.tasks import task_of
from training import fitting
from training.recipes.registry import recipe

FIT = ("fit.steps=3", "fit.save_steps=1")
RANKER = ("ranker=splade-tiny", "ranker_tokens=40", "count=3", "depth=10", "cycles=1", *(
    f"{fit}.{change}"
    for fit in ("fit", "ranker_warmup", "ranker_fit")
    for change in ("batch_size=8", "steps=3", "save_steps=1")
))  # fmt: skip
CROSS = ("cross_encoder=splade-tiny", "cross_tokens=40", "cross_fit.batch_size=8", "cross_fit.steps=3",
         "cross_fit.save_steps=1", "depth=10", "cycles=1", "select=last")  # fmt: skip


class Stop(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "changes", "fits", "tolerance"),
    [
        ("star", (*FIT, "depth=10"), ["star"], 0),
        ("adore", FIT, ["adore"], 0),
        pytest.param("ance", (*FIT, "depth=10", "cycles=2"), ["fit-0", "fit-1"], 0, marks=pytest.mark.slow),
        ("ar2", RANKER, ["ranker-warmup", "ranker-0", "retriever-0"], 0),
        # Its teachers score a pair once; a pair that is met again is scored beside others, to other last
        # digits. A step moves a weight by 3e-4.
        pytest.param("trans_encoder", (*FIT, *CROSS), ["cross-0-0", "bi-0-0"], 1e-5, marks=pytest.mark.slow),
    ],
)
def test_interruptions_within_every_fit_change_nothing(
    split_pydocs, tmp_path, monkeypatch, name, changes, fits, tolerance
):
    whole = recipe(name).train(task_of(tmp_path / "whole", split_pydocs, name, *changes))
    run = fitting.run
    stopped = []

    def stopping(trainer, model, folder, finish):
        if folder.name not in stopped:
            stopped.append(folder.name)
            trainer.add_callback(Stop())
        return run(trainer, model, folder, finish)

    monkeypatch.setattr(fitting, "run", stopping)
    for _ in fits:
        with pytest.raises(KeyboardInterrupt):
            recipe(name).train(task_of(tmp_path / "stopped", split_pydocs, name, *changes))
    task = task_of(tmp_path / "stopped", split_pydocs, name, *changes)
    again = recipe(name).train(task)
    assert stopped == fits
    assert [task.stages.reports[fit]["resumed_from"] for fit in fits] == [2] * len(fits)
    saved = [path.relative_to(whole) for path in whole.rglob("*.safetensors") if "checkpoints" not in path.parts]
    assert saved
    for path in saved:
        expected, found = (load_file(folder / path) for folder in (whole, again))
        assert expected.keys() == found.keys()
        for weight, values in expected.items():
            assert (values - found[weight]).abs().max() <= tolerance, (path, weight)
