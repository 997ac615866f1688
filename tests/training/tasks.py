"""Tasks of recipes with a real two-layer model, small enough for tests."""

from training.collection import open_training_collection
from training.recipes.registry import recipe
from training.settings import read_settings
from training.stages import Stages
from training.task import Task

QUICK = ("base=splade-tiny", "document_tokens=24", "query_tokens=12", "fit.batch_size=16", "fit.learning_rate=3e-4")


def settings_of(name, *changes):
    """Return a recipe's settings with the quick ones."""
    return read_settings(recipe(name).settings, None, [*QUICK, *changes])


def task_of(folder, data, name, *changes):
    """Return the task of a recipe on the training split of a collection, with stages in `folder`."""
    settings = settings_of(name, *changes)
    return Task(open_training_collection(data), settings, Stages(folder, {"settings": settings.model_dump()}), True)
