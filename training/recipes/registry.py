"""The recipes by name."""

from importlib import import_module
from pathlib import Path

from retriever.errors import InvalidInput
from training.recipe import Recipe
from training.settings import read_yaml

NAMES = (
    "contrastive", "star", "adore", "ance", "tas_b", "ngame", "ar2", "trans_encoder", "cross_encoder", "cornstack",
    "bpr", "jpq", "repconc", "bidr", "genq", "gpl", "bpr_genq", "bpr_gpl", "jpq_genq", "jpq_gpl",
    "low_rank_adapter", "soft_prompt", "repllama", "llm_ql", "instruct",
)  # fmt: skip
CONFIGS = Path(__file__).parent.parent / "configs"


def recipe(name: str) -> Recipe:
    """Return a recipe. Raises InvalidInput naming those that there are."""
    if name not in NAMES:
        raise InvalidInput(f"there is no recipe {name!r}; there are: {', '.join(NAMES)}.")
    found = import_module(f"training.recipes.{name}").RECIPE
    assert isinstance(found, Recipe)
    return found


def configured(config: str) -> tuple[Recipe, Path]:
    """Return the recipe and the YAML that a command's CONFIG means: a file with a key `recipe`, or a recipe's name."""
    if config in NAMES:
        return recipe(config), CONFIGS / f"{config}.yaml"
    path = Path(config)
    if not path.is_file():
        raise InvalidInput(f"{config!r} is neither a file nor a recipe; there are: {', '.join(NAMES)}.")
    name = named_in(path)
    if name is None:
        raise InvalidInput(f"{path} has no line `recipe: NAME`; there are: {', '.join(NAMES)}.")
    return recipe(name), path


def named_in(path: Path) -> str | None:
    """Return the recipe's name in a YAML, None where it names none."""
    name = read_yaml(path).get("recipe")
    return None if name is None else str(name)
