import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.models import CATALOGUE, DEFAULT_ENCODER, cache, locate, resolve
from tests.retriever.models.factories import CONFIG, WEIGHTS, tiny_model

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "c" * 40


def write_model(folder: Path, weights: bytes = WEIGHTS) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def write_hub_copy(home: Path, repository: str, weights: bytes = WEIGHTS) -> Path:
    """Lay a snapshot out as the hub's client does."""
    root = home.parent / "hub" / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    return write_model(root / "snapshots" / COMMIT, weights)


@pytest.fixture
def tiny(home: Path, local_index: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pin a small model under the name "tiny", published as nobody/tiny."""
    model = replace(tiny_model(local_index), published=True)
    monkeypatch.setitem(CATALOGUE, "tiny", model)
    return "tiny"


def test_a_folder_comes_first(
    tiny: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ways_out: list[str]
) -> None:
    folder = write_model(tmp_path / "work" / tiny)
    write_hub_copy(home, "nobody/tiny")
    monkeypatch.chdir(tmp_path / "work")
    assert resolve(tiny) == resolve(folder) == resolve(str(folder)) == resolve("./tiny") == folder
    assert not ways_out


def test_a_folder_that_is_no_model_does_not_hide_a_pinned_name(
    tiny: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ways_out: list[str]
) -> None:
    """An index called like the model may stand in the working directory."""
    (tmp_path / "work" / tiny).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    copy = write_hub_copy(home, "nobody/tiny")
    assert resolve(tiny) == copy
    with pytest.raises(InvalidInput, match="not a model folder"):
        resolve("./tiny")
    assert not ways_out


def test_the_build_comes_before_the_hub_cache_and_the_wheel_last(tiny: str, home: Path) -> None:
    built = resolve(tiny)
    assert built == home / "models" / tiny
    write_hub_copy(home, "nobody/tiny")
    assert resolve("nobody/tiny") == resolve(tiny, offline=True) == built


def test_a_hub_copy_counts_only_with_the_pinned_weights(tiny: str, home: Path, ways_out: list[str]) -> None:
    write_hub_copy(home, "nobody/tiny", WEIGHTS[:-4] + b"\0\0\0\0")
    assert locate(tiny) is None
    assert not ways_out


def test_a_hub_copy_of_any_model_is_found(home: Path, ways_out: list[str]) -> None:
    copy = write_hub_copy(home, "some/model")
    assert resolve("some/model") == resolve("some/model", offline=True) == copy
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    assert locate("some/model") is None
    assert not ways_out


def test_the_names_of_the_default_model_mean_one_folder(default_encoder: Path) -> None:
    folder = default_encoder
    assert folder == resolve(DEFAULT_ENCODER) == resolve("sentence-transformers/all-MiniLM-L6-v2")


def test_another_owners_copy_is_another_model(home: Path, ways_out: list[str]) -> None:
    """What we lift from 4 bit must not stand in silently for the publisher's model."""
    with pytest.raises(BackendUnavailable, match="has other weights: published tokenizer"):
        resolve("intfloat/multilingual-e5-small")
    assert not ways_out


@pytest.mark.parametrize("name", [*CATALOGUE, "sentence-transformers/all-MiniLM-L6-v2", "some/model"])
def test_offline_makes_no_call_when_the_model_is_missing(
    home: Path, monkeypatch: pytest.MonkeyPatch, ways_out: list[str], name: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(BackendUnavailable, match=f"retriever models pull {name}"):
        resolve(name, offline=True)
    assert locate(name) is None
    assert ways_out == []


def test_offline_makes_no_call_when_the_model_is_here(
    default_encoder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, ways_out: list[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    copy = write_hub_copy(home, "some/model")
    assert resolve("some/model", offline=True) == copy
    monkeypatch.setenv("RETRIEVER_HOME", str(default_encoder.parent.parent))
    assert resolve(DEFAULT_ENCODER, offline=True) == default_encoder
    assert ways_out == []


def test_without_offline_the_same_names_do_call(
    home: Path, monkeypatch: pytest.MonkeyPatch, ways_out: list[str]
) -> None:
    """Shows that the two tests above can fail: the hub is asked by a socket, pip by a process."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(BackendUnavailable, match="the hub cannot be reached"):
        resolve("some/model")
    assert ways_out
    assert not any(call.startswith("process") for call in ways_out)
    ways_out.clear()
    with pytest.raises(OSError, match="process is refused"):
        resolve("all-MiniLM-L6-v2")
    assert not ways_out[0].startswith("process")
    assert ways_out[-1].startswith("process")


def test_hf_hub_offline_leaves_the_hub_out_and_pip_in(
    home: Path, monkeypatch: pytest.MonkeyPatch, ways_out: list[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackendUnavailable, match="switched off by HF_HUB_OFFLINE"):
        resolve("some/model")
    assert ways_out == []
    with pytest.raises(OSError, match="process is refused"):
        resolve("all-MiniLM-L6-v2")
    assert len(ways_out) == 1


def test_an_unknown_name_lists_what_is_known(home: Path, ways_out: list[str]) -> None:
    with pytest.raises(InvalidInput, match="Did you mean 'all-MiniLM-L6-v2'") as caught:
        resolve("all-minilm-l6")
    assert all(name in str(caught.value) for name in CATALOGUE)
    with pytest.raises(InvalidInput) as caught:
        resolve("quite-something-else")
    assert "Did you mean" not in str(caught.value)
    assert not ways_out


@pytest.mark.parametrize(
    "name",
    ["", "a/b/c", "a b", "x" * 5000, "nul\0byte", "~nobody-of-that-name/x", "./absent", "/absent", "a/../b"],
)
def test_names_that_name_nothing_are_invalid(home: Path, ways_out: list[str], name: str) -> None:
    with pytest.raises(InvalidInput):
        resolve(name, offline=True)
    assert not ways_out


def test_folders_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes(CONFIG)
    (pickled / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InvalidInput, match=r"only pytorch_model.bin, a format that can run code"):
        resolve(pickled)
    sharded = write_model(tmp_path / "sharded")
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002.safetensors"}}')
    with pytest.raises(InvalidInput, match=r"lacks model-00002.safetensors"):
        resolve(sharded)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="is a file"):
        resolve(tmp_path / "file")
    with pytest.raises(InvalidInput, match="There is no folder"):
        resolve(tmp_path / "absent")


def test_a_dead_index_is_explained(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip really runs, and meets a closed port."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(BackendUnavailable, match="Cannot download the model splade-tiny"):
        cache.build(CATALOGUE["splade-tiny"])
    assert [path.name for path in (home / "models").iterdir()] == [".splade-tiny.lock"]


SEALED = """
import os, sys
CALLS = {"socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system", "os.exec"}
def watch(event, arguments):
    if event in CALLS:
        os.write(2, f"CALL {event} {arguments}\\n".encode())
        os._exit(99)
sys.addaudithook(watch)
from retriever.cli import main
sys.argv = ["retriever", "models", *sys.argv[1:]]
main()
"""


def run_sealed(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that ends with 99 at its first socket call or child process."""
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    dead = "http://127.0.0.1:9"
    environment |= {"HTTP_PROXY": dead, "HTTPS_PROXY": dead, "PIP_INDEX_URL": f"{dead}/simple"}
    if home is not None:
        environment |= {"RETRIEVER_HOME": str(home), "HF_HOME": str(home / "hub")}
    return subprocess.run(
        [sys.executable, "-c", SEALED, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_line_offline_makes_no_call(default_encoder: Path, tmp_path: Path) -> None:
    hit = run_sealed("pull", "--offline", DEFAULT_ENCODER)
    assert (hit.returncode, hit.stdout) == (0, f"{DEFAULT_ENCODER}  {default_encoder}\n"), hit.stderr
    for name in (DEFAULT_ENCODER, "some/model"):
        miss = run_sealed("pull", "--offline", name, home=tmp_path)
        assert miss.returncode == BackendUnavailable.exit_code, miss.stderr
        assert miss.stderr.startswith("error: The model")
    for arguments in (("list",), ("describe", DEFAULT_ENCODER)):
        assert run_sealed(*arguments, home=tmp_path).returncode == 0


def test_the_sealed_process_does_notice_calls(tmp_path: Path) -> None:
    online = run_sealed("pull", "some/model", home=tmp_path)
    assert online.returncode == 99
    assert "CALL socket" in online.stderr
