"""Extended encoders: a table of positions (the real MiniLM) and rotary ones (a small Llama with random weights)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from retriever.encoder import DenseEncoder, differences, load_encoder
from retriever.errors import InvalidInput
from retriever.long_context import LongContext
from retriever.long_context.extension import extend, save_extended
from retriever.types import Document
from tests.retriever.long_context.models import write_rotary_encoder, write_table_encoder

SHORT = ["a wing", "the flow over a slender body of revolution " * 12, ""]  # 98 tokens at most
LONG = "the shock wave stands before the blunt nose of a cone at supersonic speed and heats the boundary layer. "
SLOW = pytest.mark.slow
ROTARY = ("windows", "grouped", "interpolated", "ntk", "self_extend")


@pytest.fixture(scope="module")
def minilm():
    """MiniLM with all of its 512 positions."""
    encoder = load_encoder("all-MiniLM-L6-v2", device="cpu", offline=True)
    encoder.model.max_seq_length = 512
    return encoder


@pytest.fixture(scope="module")
def rotary(tmp_path_factory):
    return write_rotary_encoder(tmp_path_factory.mktemp("rotary"))


def extended(source, **settings):
    return DenseEncoder(extend(source, LongContext(**settings), offline=True), name="extended")


def saved(source, settings, folder):
    save_extended(extend(source, settings, offline=True), str(source), folder)
    return load_encoder(folder, device="cpu")


@pytest.mark.parametrize(
    "method", ["windows", "interpolated", pytest.param("grouped", marks=SLOW), pytest.param("recurrent", marks=SLOW)]
)
def test_minilm_reads_on_and_short_texts_keep_their_vectors(minilm, method):
    """With 128 of its 512 positions as the window, since longer texts take their time."""
    encoder = extended("all-MiniLM-L6-v2", method=method, length=256, window=128)
    assert encoder.max_tokens == 256
    np.testing.assert_array_equal(encoder.encode_texts(SHORT), minilm.encode_texts(SHORT))
    # What is behind the window is read: another end, another vector.
    long = [LONG * 9 + "One more sentence ends it.", LONG * 9 + "The price of tea fell again.", LONG * 7]
    assert 128 < min(encoder.count_tokens(long)) < max(encoder.count_tokens(long)) < 256
    apart = np.concatenate([encoder.encode_texts([text]) for text in [*long, *SHORT]])
    assert apart[0] @ apart[1] < 0.99999
    np.testing.assert_allclose(
        encoder.model.encode([*SHORT, *long], batch_size=6), apart[[3, 4, 5, 0, 1, 2]], atol=2e-6
    )
    assert np.linalg.norm(apart, axis=1) == pytest.approx(1, abs=1e-6)


def test_every_setting_is_part_of_the_fingerprint(rotary, tmp_path):
    prints = [
        extended(rotary, **settings).fingerprint()
        for settings in (
            {"method": "grouped", "length": 128},
            {"method": "grouped", "length": 64},
            {"method": "grouped", "length": 128, "temperature": False},
            {"method": "ntk", "length": 128, "base_factor": 7},
            {"method": "windows", "length": 128, "window": 16},
        )
    ]
    assert len({json.dumps(one, sort_keys=True) for one in prints}) == len(prints)
    assert prints[0]["weights"] == load_encoder(rotary, device="cpu").fingerprint()["weights"]
    assert any("length 128" in one and "length 64" in one for one in differences(prints[0], prints[1]))


@pytest.mark.parametrize(
    ("source", "method"),
    [("rotary", "self_extend"), ("table", "interpolated"), pytest.param("rotary", "windows", marks=SLOW)],
)
def test_a_saved_folder_is_the_same_encoder_and_can_be_saved_again(source, method, rotary, tmp_path):
    folder = rotary if source == "rotary" else write_table_encoder(tmp_path, "roberta")
    settings = LongContext(method=method, length=128)
    first = extended(folder, **settings.model_dump(exclude_none=True))
    encoder = saved(folder, settings, tmp_path / "longer")
    again = saved_again(encoder.model, tmp_path / "again")
    assert first.fingerprint() == encoder.fingerprint() == again.fingerprint()
    texts = [LONG * 4, "a wing"]
    np.testing.assert_array_equal(again.encode_texts(texts), first.encode_texts(texts))


def saved_again(model, folder):
    model.save(str(folder), create_model_card=False)
    return load_encoder(folder, device="cpu")


def test_windows_are_the_mean_of_vectors_that_are_not_normalised(minilm):
    """With sentence-transformers alone: MiniLM's own tokens cut by hand, its pooling, no normalising, a mean."""
    encoder = extended("all-MiniLM-L6-v2", method="windows", length=300, window=100)
    text = LONG * 10
    ids = minilm.model.tokenizer(text)["input_ids"]
    assert 200 < len(ids) < 294
    inner = ids[1:-1]
    windows = [inner[:98], inner[98:196], inner[-98:]]
    rows = torch.tensor([[101, *one, 102] for one in windows])
    with torch.inference_mode():
        features = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        mean = minilm.model[1](minilm.model[0](features))["sentence_embedding"].mean(0)
    np.testing.assert_allclose(encoder.encode_texts([text])[0], mean / mean.norm(), atol=1e-6)


def test_windows_repeat_the_prompt_of_their_text():
    model = extend("all-MiniLM-L6-v2", LongContext(method="windows", length=64, window=16), offline=True)
    features = model.preprocess([LONG * 3], prompt="passage: ")
    seen = []
    body = model[0].model
    forward = body.forward
    body.forward = lambda *arguments, **options: seen.append(options["input_ids"]) or forward(*arguments, **options)
    model[0]._declared_forward_params = {"input_ids"}
    model(dict(features))
    start = model.tokenizer("passage: ")["input_ids"][:-1]
    (rows,) = seen
    assert len(rows) > 3
    assert rows[:, : len(start)].tolist() == [start] * len(rows)
    # As a trainer has it: for each text.
    pair = model.preprocess([LONG * 3, LONG], prompt="passage: ")
    model(pair | {"prompt_length": torch.tensor([pair["prompt_length"]] * 2)})
    assert seen[1][:, : len(start)].tolist() == [start] * len(seen[1])


def test_temperature_scales_the_queries_of_long_texts():
    """The same as a model whose query weights are larger by log_window(tokens)."""
    source = "all-MiniLM-L6-v2"
    warm = extend(source, LongContext(method="grouped", length=512, window=128), offline=True)
    cold = extend(source, LongContext(method="grouped", length=512, window=128, temperature=False), offline=True)
    text = LONG * 15
    factor = np.log(len(warm.tokenizer(text)["input_ids"])) / np.log(128)
    assert factor > 1.1
    for layer in cold[0].model.encoder.layer:
        layer.attention.self.query.weight.data *= factor
        layer.attention.self.query.bias.data *= factor
    np.testing.assert_allclose(warm.encode([text]), cold.encode([text]), atol=1e-5)


@pytest.mark.parametrize(("causal", "pooling"), [(True, "lasttoken"), pytest.param(False, "mean", marks=SLOW)])
def test_rotary_encoders_read_on_and_short_texts_keep_their_vectors(causal, pooling, tmp_path):
    source = write_rotary_encoder(tmp_path, causal=causal, pooling=pooling)
    plain = load_encoder(source, device="cpu")
    short = ["a wing", "the flow over a slender body of revolution", "x"]
    long = [LONG * 5, LONG * 2, LONG[:80] * 3]
    expected = plain.encode_texts(short)
    vectors = {}
    for method in ROTARY:
        encoder = extended(source, method=method, length=128)
        np.testing.assert_array_equal(encoder.encode_texts(short), expected)
        assert min(encoder.count_tokens(long)) > 32 >= max(encoder.count_tokens(short))
        apart = np.concatenate([encoder.encode_texts([text]) for text in [*long, *short]])
        np.testing.assert_allclose(encoder.model.encode([*long, *short], batch_size=6), apart, atol=1e-5)
        left = encoder.model
        left.tokenizer.padding_side = "left"
        np.testing.assert_allclose(left.encode([*long, *short], batch_size=6), apart, atol=1e-5)
        vectors[method] = apart[0]
    found = np.stack(list(vectors.values()))
    assert np.triu(found @ found.T, 1).max() < 0.9999


@pytest.mark.parametrize("method", ["ntk", "interpolated"])
def test_ntk_and_interpolation_are_the_library_s_own_settings_where_all_is_long(rotary, method, tmp_path):
    """The library knows both for every text: another base, and linear scaling."""
    parameters = {
        "ntk": {"rope_type": "default", "rope_theta": 50_000.0},
        "interpolated": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
    }[method]
    theirs = load_encoder(write_rotary_encoder(tmp_path, rope=parameters, positions=128), device="cpu")
    ours = extended(rotary, method=method, length=128, temperature=False)
    texts = [LONG * 4, LONG * 2]
    np.testing.assert_allclose(ours.encode_texts(texts), theirs.encode_texts(texts), atol=1e-5)


def test_grouped_rotary_positions_are_the_library_s_with_other_ids(rotary):
    ours = extend(rotary, LongContext(method="grouped", length=128, temperature=False), offline=True)
    plain = load_encoder(rotary, device="cpu").model
    features = ours.preprocess([LONG * 4])
    count = features["input_ids"].shape[1]
    with torch.inference_mode():
        states = plain[0].model(**{k: features[k] for k in ("input_ids", "attention_mask")},
                                position_ids=torch.arange(count)[None] // 4).last_hidden_state  # fmt: skip
        torch.testing.assert_close(ours[0](dict(features))["token_embeddings"], states, atol=1e-4, rtol=1e-4)


def test_bfloat16_and_threads_change_little(rotary, tmp_path):
    full = saved(rotary, LongContext(method="self_extend", length=128), tmp_path / "m")
    half = load_encoder(tmp_path / "m", device="cpu", precision="bfloat16")
    documents = [Document("1", LONG * 3), Document("2", "a wing")]
    vectors = full.encode_documents(documents)
    assert (half.encode_documents(documents) * vectors).sum(1).min() > 0.98
    np.testing.assert_array_equal(full.replica().encode_documents(documents), vectors)


def test_sliding_windows_are_opened(rotary, tmp_path):
    """A layer that sees one window would read no more than before."""
    from transformers import MistralConfig, MistralModel

    shutil.copytree(rotary, tmp_path / "sliding")
    config = json.loads((rotary / "config.json").read_text())
    settings = {key: config[key] for key in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rope_parameters")}  # fmt: skip
    torch.manual_seed(2)
    mistral = MistralModel(MistralConfig(**settings, sliding_window=16, initializer_range=0.4, pad_token_id=2))
    mistral.save_pretrained(tmp_path / "sliding")
    long = extend(tmp_path / "sliding", LongContext(method="ntk", length=128), offline=True)
    assert long[0].model.config.sliding_window is None
    # Texts that the model saw whole keep their vectors, and only those.
    assert long[0].long_context.window == 16
    with pytest.raises(InvalidInput, match="the model reads 16"):
        extend(tmp_path / "sliding", LongContext(method="ntk", length=128, window=32), offline=True)
    windows = extend(tmp_path / "sliding", LongContext(method="windows", length=128), offline=True)
    assert windows[0].model.config.sliding_window == 16


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (
            "all-MiniLM-L6-v2",
            {"method": "ntk"},
            "ntk does not fit BertModel.*windows, grouped, recurrent, interpolated",
        ),
        ("all-MiniLM-L6-v2", {"method": "self_extend"}, "has a table of positions"),
        ("all-MiniLM-L6-v2", {"method": "grouped", "length": 512}, "not above the window of 512"),
        ("rotary", {"method": "recurrent"}, "recurrent does not fit LlamaModel, which has rotary positions"),
        ("SmolLM2-135M-Instruct", {"method": "ntk"}, "not a dense encoder"),
        ("splade-tiny", {"method": "grouped"}, "splade-tiny is not a dense encoder"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(source, settings, message, rotary):
    with pytest.raises(InvalidInput, match=message):
        extend(rotary if source == "rotary" else source, LongContext(**{"length": 2_048} | settings), offline=True)


def test_other_turns_of_heads_are_refused(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "rope_theta": 10_000.0}
    source = write_rotary_encoder(tmp_path, rope=yarn, positions=64)
    with pytest.raises(InvalidInput, match="'yarn' already; the method windows"):
        extend(source, LongContext(method="ntk", length=128), offline=True)
    assert extend(source, LongContext(method="windows", length=128), offline=True).max_seq_length == 128


def test_an_extended_encoder_is_not_extended_again_and_no_folder_is_overwritten(rotary, tmp_path):
    model = extend(rotary, LongContext(method="ntk", length=64), offline=True)
    save_extended(model, str(rotary), tmp_path / "m")
    with pytest.raises(InvalidInput, match="reads beyond its window already"):
        extend(tmp_path / "m", LongContext(method="ntk", length=128), offline=True)
    with pytest.raises(InvalidInput, match="is there already"):
        save_extended(model, "a model", tmp_path / "m")
    card = Path(tmp_path / "m" / "README.md").read_text()
    assert "ntk: length 64, window 32, base_factor 3" in card
    assert rotary.name in card
    assert str(rotary.parent) not in card


@pytest.mark.parametrize(("kind", "first"), [("roberta", 1), ("mpnet", 2)])
def test_tables_that_begin_behind_a_padding_row(kind, first, tmp_path):
    source = write_table_encoder(tmp_path, kind)
    plain = load_encoder(source, device="cpu")
    texts = ["a wing", "the flow over a slender body of revolution"]
    for method in ("interpolated", "grouped", "recurrent"):
        longer = extend(source, LongContext(method=method, length=128, temperature=False), offline=True)
        np.testing.assert_array_equal(longer.encode(texts, normalize_embeddings=True), plain.encode_texts(texts))
        assert np.isfinite(longer.encode([LONG * 5])).all()
        if method == "interpolated":
            rows = longer[0].model.embeddings.position_embeddings.weight
            old = plain.model[0].model.embeddings.position_embeddings.weight
            assert rows.shape[0] == first + 128
            assert torch.equal(rows[:first], old[:first])
            assert torch.equal(rows[first::4], old[first:])


def test_attention_that_cannot_be_changed_is_named(tmp_path):
    source = write_table_encoder(tmp_path, "mpnet")
    with pytest.raises(InvalidInput, match="MPNetModel cannot be changed.*--no-temperature"):
        extend(source, LongContext(method="grouped", length=128), offline=True)
    assert extend(source, LongContext(method="windows", length=128), offline=True).max_seq_length == 128
