import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retriever.commands.models import app
from retriever.errors import BackendUnavailable, InvalidInput
from retriever.models import CATALOGUE, cache
from tests.retriever.models.factories import tiny_model


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pin a small model that pip finds in a folder, under an empty cache."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("RETRIEVER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setitem(CATALOGUE, "tiny", tiny_model(folder))
    return "tiny"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_shows_what_a_pull_changes(tiny: str) -> None:
    states = {row["name"]: row["state"] for row in json.loads(run("list", "--json"))}
    assert states.keys() == CATALOGUE.keys()
    assert states[tiny] == "not pulled"
    folder = run("pull", tiny).split()[1]
    row = next(row for row in json.loads(run("list", "--json")) if row["name"] == tiny)
    assert (row["state"], row["path"], row["licence"], row["parameters"]) == ("ready", folder, "MIT", 6)
    line = next(line for line in run("list").splitlines() if line.startswith(tiny))
    assert line.split() == ["tiny", "dense", "encoder", "0.0", "M", "0.0", "MB", "MIT", "ready"]


def test_pull_prints_paths(tiny: str) -> None:
    expected = str(cache.models_folder() / tiny)
    assert run("pull", tiny) == f"tiny  {expected}\n"
    assert json.loads(run("pull", "--offline", "--json", tiny)) == {tiny: expected}


def test_pull_goes_on_after_a_failure(tiny: str) -> None:
    result = CliRunner().invoke(app, ["pull", "--json", "unheard-of", tiny])
    assert isinstance(result.exception, InvalidInput)
    assert json.loads(result.stdout) == {tiny: str(cache.models_folder() / tiny)}


def test_pull_wants_names_or_all(tiny: str) -> None:
    for arguments in (["pull"], ["pull", "--all", tiny]):
        with pytest.raises(InvalidInput, match="either the names"):
            CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_pull_all_offline_reports_each_model(tiny: str) -> None:
    run("pull", tiny)
    result = CliRunner().invoke(app, ["pull", "--all", "--offline"])
    assert isinstance(result.exception, BackendUnavailable)
    assert result.stdout.startswith("tiny  ")
    assert result.stderr.count("is not on this machine") == len(CATALOGUE) - 2, "the last is raised"


def test_describe_shows_alterations(tiny: str) -> None:
    folder = Path(run("pull", tiny).split()[1])
    assert "verified    yes" in run("describe", tiny).splitlines()
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    shown = run("describe", tiny)
    assert "verified    NO, some files are not as they were built" in shown.splitlines()
    assert shown.count("ALTERED") == 1
    facts = json.loads(run("describe", "--json", tiny))
    assert facts["verified"] is False
    assert [file["name"] for file in facts["files"] if file["as_built"] is False] == ["model.safetensors"]


def test_describe_what_is_not_here_names_the_next_step(tiny: str) -> None:
    assert "retriever models pull tiny" in run("describe", tiny)


def test_help_shows_examples() -> None:
    assert "retriever models pull --all" in run("pull", "--help")
    for command in ("list", "pull", "describe"):
        assert f"retriever models {command}" in run(command, "--help")


def test_train_reranker_is_the_command_of_train() -> None:
    import training.commands

    here = run("train", "reranker", "--help")
    there = CliRunner().invoke(training.commands.app, ["reranker", "--help"]).stdout
    options = re.compile(r"--[a-z-]+")
    assert set(options.findall(here)) == set(options.findall(there)) > {"--data", "--set", "--restart", "--json"}
    assert "reranker" in run("train", "--help")
    result = CliRunner().invoke(app, ["train", "reranker", "out", "--data", "nowhere", "--set", "nothing=1"])
    assert isinstance(result.exception, InvalidInput)
    assert "nothing" in str(result.exception)
    assert CliRunner().invoke(app, ["train", "mine"]).exit_code == 2
