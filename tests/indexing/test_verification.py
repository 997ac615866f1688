"""verify_index and open_index against every kind of damage; a sound version before it stays served."""

import hashlib
import json
import shutil
import sqlite3

import numpy as np
import pytest

from indexing.build import add_documents, build_index
from indexing.change import delete_documents
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.errors import IndexCorrupt, IndexMismatch, UnknownIndex
from retriever.index.manifest import read_manifest
from retriever.index.sealed import open_index
from tests.factories import HashingEncoder, ListCorpus, random_documents

SETTINGS = BuildSettings(encoder="hashing", dense="HNSW8", fields={"year": "number"})


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return an index of two segments with deletions and every kind of file."""
    path = tmp_path_factory.mktemp("sound") / "index"
    build_index(ListCorpus(random_documents(60, seed=0)), path, SETTINGS, encoder=HashingEncoder())
    new = ListCorpus(random_documents(20, seed=1, prefix="n"))
    add_documents(new, path, encoder=HashingEncoder())
    delete_documents(path, ["d1", "n2"])
    return path


@pytest.fixture
def index(sound, tmp_path):
    """Return a copy to damage."""
    return shutil.copytree(sound, tmp_path / "index")


def verify(path):
    return verify_index(path, encoder=HashingEncoder())


def names(path):
    manifest, _ = read_manifest(path)
    return sorted(manifest.all_files())


def reseal(path, change):
    """Alter the manifest in force and make CURRENT agree, as somebody who knows the format could."""
    name, _ = (path / "CURRENT").read_text().split()
    content = json.loads((path / name).read_text())
    change(content)
    data = json.dumps(content).encode()
    (path / name).write_bytes(data)
    (path / "CURRENT").write_text(f"{name} {hashlib.sha256(data).hexdigest()}\n")


def test_sound(sound):
    verdict = verify(sound)
    assert verdict.sound
    assert (verdict.generation, verdict.documents, verdict.warnings) == (3, 78, [])
    assert verdict.canary_drift == pytest.approx(0, abs=1e-6)
    assert verdict.files == len(names(sound)) >= 25


def test_a_copy_in_another_place_is_as_sound(index):
    assert verify(index).sound


def test_one_flipped_bit_in_any_file_is_found(index):
    for name in names(index):
        path = index / name
        content = path.read_bytes()
        if not content:
            continue
        altered = bytearray(content)
        altered[len(content) // 2] ^= 1
        path.write_bytes(altered)
        try:
            assert any(name in problem for problem in verify(index).problems), name
        finally:
            path.write_bytes(content)
    assert verify(index).sound


def test_a_truncated_or_missing_file_is_refused_when_opening(index):
    for name in names(index):
        path = index / name
        content = path.read_bytes()
        if not content:
            continue
        path.write_bytes(content[:-1])
        with pytest.raises(IndexCorrupt, match=f"has {len(content) - 1:,} bytes, the manifest says"):
            open_index(index)
        path.unlink()
        with pytest.raises(IndexCorrupt, match="is missing"):
            open_index(index)
        assert not verify(index).sound
        path.write_bytes(content)


def test_an_extra_file_is_a_warning(index):
    (index / "segments" / "000001" / "notes.txt").write_text("mine")
    verdict = verify(index)
    assert verdict.sound
    assert verdict.warnings == ["segments/000001/notes.txt belongs to no generation of this index"]


def test_altered_records_are_found(index):
    with sqlite3.connect(index / "documents.sqlite") as connection:
        connection.execute("UPDATE documents SET text = 'altered' WHERE id = 'd7'")
    connection.close()
    assert verify(index).problems == [
        "documents.sqlite: the documents of segment 000001 are not those that were sealed"
    ]


def test_a_record_that_only_one_part_has_is_found(index):
    with sqlite3.connect(index / "documents.sqlite") as connection:
        connection.execute("DELETE FROM documents WHERE id = 'd7'")
    connection.close()
    problems = " | ".join(verify(index).problems)
    assert "records and segments hold different live documents: 'd7'" in problems
    assert "segment 000001: the manifest says 60 documents, the records 59" in problems


def test_damaged_records(index):
    path = index / "documents.sqlite"
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 4] = bytes(8192)
    path.write_bytes(content)
    assert not verify(index).sound


def test_missing_records(index):
    (index / "documents.sqlite").unlink()
    with pytest.raises(IndexCorrupt, match=r"documents\.sqlite is missing"):
        open_index(index)


def test_an_altered_manifest(index):
    name, _ = (index / "CURRENT").read_text().split()
    (index / name).write_text((index / name).read_text().replace('"k1": 0.9', '"k1": 0.8'))
    with pytest.raises(IndexCorrupt, match="was altered: its sha256 is not the one in CURRENT"):
        open_index(index)


def test_a_missing_manifest(index):
    name, _ = (index / "CURRENT").read_text().split()
    (index / name).unlink()
    with pytest.raises(IndexCorrupt, match=f"CURRENT names {name}, which is missing"):
        open_index(index)


@pytest.mark.parametrize("content", ["", "../../etc/passwd abc", "manifest-000001.json", b"\xff\xfe\x00"])
def test_a_current_that_points_nowhere_sensible(index, content):
    (index / "CURRENT").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(IndexCorrupt, match="CURRENT"):
        open_index(index)


def test_an_older_format(index):
    reseal(index, lambda content: content.update(format=1))
    with pytest.raises(IndexMismatch, match="has index format 1, this version reads 2 to 4; build the index again"):
        open_index(index)


@pytest.mark.parametrize("part", ["codes", "dense_distances", "exceptions", "terms", "kinds"])
def test_a_flipped_bit_of_the_postings_is_an_error_at_opening(index, part):
    path = next(index.glob(f"segments/*/inverted.{part}.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    with pytest.raises(IndexCorrupt, match=rf"inverted.{part}.npy was altered: its sha256"):
        open_index(index)


def test_a_newer_format(index):
    def newer(content):
        content["format"] = 99
        content["brand_new"] = True

    reseal(index, newer)
    with pytest.raises(IndexMismatch, match="has index format 99, this version reads 2 to 4; upgrade"):
        open_index(index)


def test_a_newer_format_whose_keys_are_all_known(index):
    reseal(index, lambda content: content.update(format=5))
    with pytest.raises(IndexMismatch, match="has index format 5"):
        open_index(index)


def test_keys_that_this_version_does_not_know(index):
    def newer(content):
        content["brand_new"] = True
        content["segments"][0]["shiny"] = 1

    reseal(index, newer)
    with pytest.raises(IndexMismatch, match=r"says segments\.0\.shiny, brand_new, which this version does not know"):
        open_index(index)


def test_the_format_before_is_read_and_raised_by_the_next_change(index):
    with open_index(index) as opened:
        ranking = opened.search("alpha", 3, pipeline="bm25").ranking()
        gone = opened.segments[0].ids[0]

    def older(content):
        content["format"] = 2
        del content["applied"], content["inverted"]["search_fields"]
        for segment in content["segments"]:
            del segment["unencoded"]

    reseal(index, older)
    with open_index(index) as opened:
        assert opened.search("alpha", 3, pipeline="bm25").ranking() == ranking
    delete_documents(index, [gone])
    assert read_manifest(index)[0].format == 4


def test_a_file_list_that_leaves_the_folder_is_only_ever_compared(index):
    def outward(content):
        content["segments"][0]["files"]["../outside"] = {"sha256": "0" * 64, "bytes": 1}

    reseal(index, outward)
    with pytest.raises(IndexCorrupt, match="leads out of the index"):
        open_index(index)


def test_parts_with_different_numbers_of_documents(index):
    def shorter(content):
        content["segments"][0]["documents"] -= 1

    reseal(index, shorter)
    assert any("59 tombstone bits for 60 documents" in problem for problem in verify(index).problems)


def test_another_analyser(index):
    reseal(index, lambda content: content["inverted"].update(analyser_fingerprint="other"))
    with pytest.raises(IndexMismatch, match="the index was analysed by other"):
        open_index(index)


def test_another_encoder_of_the_same_width(sound):
    with open_index(sound, encoder=HashingEncoder(seed="other")) as index:
        with pytest.raises(IndexMismatch, match=r"another encoder\. weights: the index has"):
            index.search("wing", 1, pipeline="dense")
        # Nor does a hybrid search quietly go on without it.
        assert index.search("wing", 1, pipeline="bm25").hits
        with pytest.raises(IndexMismatch):
            index.search("wing", 1, pipeline="hybrid")


def test_an_encoder_that_drifted_though_its_fingerprint_did_not(sound):
    class Drifted(HashingEncoder):
        def encode_queries(self, queries):
            return super().encode_queries(queries) + np.float32(0.2)

    verdict = verify_index(sound, encoder=Drifted())
    assert "canary texts encode to other vectors" in verdict.problems[0]
    with open_index(sound, encoder=Drifted()) as index, pytest.raises(IndexMismatch, match="canary"):
        index.check_canaries()


def test_no_index_at_all(tmp_path):
    with pytest.raises(UnknownIndex, match=r"build one with `retriever index build"):
        verify(tmp_path)
    with pytest.raises(UnknownIndex):
        verify(tmp_path / "nowhere")


def test_a_read_only_copy_can_be_searched(index):
    for path in [*index.rglob("*"), index]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with open_index(index, encoder=HashingEncoder()) as opened:
            assert opened.search("wing", 3).hits[0].document is not None
    finally:
        for path in [index, *index.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
