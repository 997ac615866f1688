"""The parts by hand: settings, positions, windows, turns, SelfExtend's distances."""

import math

import pytest
import torch

from retriever.errors import InvalidInput
from retriever.long_context.attention import QUERIES, merged_attention
from retriever.long_context.positions import grouped, interpolated, interpolated_table, recurrent
from retriever.long_context.rotary import frequencies, turned
from retriever.long_context.settings import METHODS, LongContext, read_long_context
from retriever.long_context.stretch import Merge, merge_of, temperature, turn_angles
from retriever.long_context.windows import ROWS, WindowMean, split_features, split_windows


@pytest.mark.parametrize(("factor", "group", "neighbours", "base"), [(2, 3, 256, 3), (4, 5, 128, 5), (8, 9, 64, 10)])
def test_what_is_not_given_is_as_in_the_paper(factor, group, neighbours, base):
    """Tables of LongEmbed for E5-RoPE's 512 positions; the same rule gives its numbers for Mistral's 4,096."""
    found = LongContext(method="self_extend", length=512 * factor).resolved(512)
    assert (found.factor, found.group, found.neighbours) == (factor, group, neighbours)
    mistral = LongContext(method="self_extend", length=4_096 * factor).resolved(4_096)
    assert (mistral.group, mistral.neighbours) == (group, neighbours * 8)
    assert LongContext(method="ntk", length=512 * factor).resolved(512).base_factor == base


def test_the_factor_is_rounded_up_and_a_smaller_window_may_be_given():
    found = LongContext(method="grouped", length=1_025, window=256).resolved(512)
    assert (found.window, found.factor) == (256, 5)
    assert LongContext(method="windows", length=600).resolved(512).temperature is False


@pytest.mark.parametrize(
    ("settings", "positions", "message"),
    [
        ({"method": "grouped", "length": 512}, 512, "not above the window of 512"),
        ({"method": "grouped", "length": 400}, 512, "larger length, or a smaller window"),
        ({"method": "grouped", "length": 2_048, "window": 1_024}, 512, "reads 512"),
        ({"method": "windows", "length": 2_048}, None, "no window of its own"),
        ({"method": "grouped", "length": 2_048, "group": 3}, 512, "belong to the method self_extend, not to grouped"),
        ({"method": "grouped", "length": 2_048, "base_factor": 3}, 512, "belongs to the method ntk"),
        ({"method": "self_extend", "length": 2_048, "group": 3}, 512, "larger groups or fewer neighbours"),
        ({"method": "self_extend", "length": 2_048, "group": 900, "neighbours": 512}, 512, "the window is 512"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_go_together_are_refused(settings, positions, message):
    with pytest.raises(InvalidInput, match=message):
        read_long_context(settings).resolved(positions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "longer", "length": 2_048}, "method is 'longer'.*windows.*self_extend"),
        ({"method": "grouped", "length": 3}, "length is 3"),
        ({"method": "grouped", "length": 10**9}, "length is 1000000000"),
        ({"method": "ntk", "length": 2_048, "base_factor": math.nan}, "base_factor is nan"),
        ({"method": "ntk", "length": 2_048, "other": 1}, "other is 1"),
    ],
)
def test_faulty_values_are_named(settings, message):
    with pytest.raises(InvalidInput, match=message):
        read_long_context(settings)


def test_every_method_says_what_it_is():
    for method in METHODS:
        assert LongContext(method=method, length=2_048).resolved(512).describe().startswith(f"{method}: length 2048")


def test_positions_by_hand():
    places = torch.arange(8).repeat(2, 1)
    long = torch.tensor([True, False])
    short = list(range(8))
    assert grouped(places, long, 3).tolist() == [[0, 0, 0, 1, 1, 1, 2, 2], short]
    assert recurrent(places, long, 5).tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], short]
    assert interpolated(places, long, 2).tolist() == [short, [0, 2, 4, 6, 8, 10, 12, 14]]


def test_the_table_holds_its_rows_to_the_bit_and_lines_between_them():
    table = torch.tensor([[0.0, 0.1], [1.0, -3.0], [4.0, 7.7], [99.0, 99.0]])
    rows = interpolated_table(table, 3, 4)
    assert rows.shape == (12, 2)
    assert torch.equal(rows[::4], table[:3])
    torch.testing.assert_close(rows[1:4, 0], torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(rows[6], (table[1] + table[2]) / 2)
    assert torch.equal(rows[8:], table[2].expand(4, 2))
    half = torch.randn(5, 6).bfloat16()
    assert torch.equal(interpolated_table(half, 5, 3)[::3], half)


def test_windows_by_hand():
    ids = [101, 1, 2, 3, 4, 5, 6, 7, 102]
    assert split_windows(ids, 9, 1, 1) == [ids]
    assert split_windows(ids, 5, 1, 1) == [[101, 1, 2, 3, 102], [101, 4, 5, 6, 102], [101, 5, 6, 7, 102]]
    # With a prompt of two tokens behind the first one.
    assert split_windows(ids, 6, 3, 1) == [[101, 1, 2, 3, 4, 102], [101, 1, 2, 5, 6, 102], [101, 1, 2, 6, 7, 102]]
    assert split_windows([1, 2, 3, 4], 2, 0, 0) == [[1, 2], [3, 4]]
    with pytest.raises(InvalidInput, match="no room beside the 4"):
        split_windows(ids, 4, 3, 1)


@pytest.mark.parametrize("window", [5, 6, 9, 16])
@pytest.mark.parametrize("length", [17, 30, 41])
def test_windows_hold_every_token(window, length):
    ids = list(range(length))
    windows = split_windows(ids, window, 1, 1)
    assert all(len(one) == window and one[0] == 0 and one[-1] == length - 1 for one in windows)
    assert {token for one in windows for token in one} == set(ids)
    assert windows[-1][1:-1] == ids[-window + 1 : -1]
    assert len(windows) == math.ceil((length - 2) / (window - 2))


def test_rows_become_windows_and_vectors_their_mean():
    features = {
        "input_ids": torch.tensor([[9, 1, 2, 3, 4, 5, 8], [0, 0, 0, 9, 6, 7, 8]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]),
        "token_type_ids": torch.zeros(2, 7, dtype=torch.long),
        "modality": "text",
    }
    split = split_features(features, 4, 1, 1, padding=0)
    assert split["input_ids"].tolist() == [[9, 1, 2, 8], [9, 3, 4, 8], [9, 4, 5, 8], [9, 6, 7, 8]]
    assert split["attention_mask"].tolist() == [[1, 1, 1, 1]] * 4
    assert split["token_type_ids"].shape == (4, 4)
    assert split["modality"] == "text"
    vectors = torch.tensor([[1.0, 0.0], [2.0, 3.0], [6.0, 9.0], [0.1, 0.2]])
    joined = WindowMean()({ROWS: split[ROWS], "sentence_embedding": vectors})
    assert torch.equal(joined["sentence_embedding"], torch.tensor([[3.0, 4.0], [0.1, 0.2]]))
    assert WindowMean()({"sentence_embedding": vectors})["sentence_embedding"] is vectors


def test_temperature_is_one_within_the_window():
    found = temperature(torch.tensor([1, 100, 512, 513, 2_048, 512**2]), 512)
    assert found[:3].tolist() == [1, 1, 1]
    torch.testing.assert_close(found[3:], torch.tensor([math.log(n) / math.log(512) for n in (513, 2_048, 512**2)]))


def test_turns_add_up_and_none_changes_no_bit():
    states = torch.randn(2, 3, 5, 8)
    angles = torch.randn(2, 5, 4)
    torch.testing.assert_close(turned(turned(states, angles), 2 * angles), turned(states, 3 * angles))
    assert torch.equal(turned(states, torch.zeros(2, 5, 4)), states)


def test_angles_lead_from_the_place_to_where_the_method_puts_it():
    own = frequencies(10_000, 8).float()
    places, long = torch.arange(40).repeat(2, 1), torch.tensor([True, False])
    for method, target in {
        "grouped": lambda p: (p // 3) * own.double(),
        "interpolated": lambda p: (p / 3) * own.double(),
        "ntk": lambda p: p * frequencies(40_000, 8),
    }.items():
        settings = LongContext(method=method, length=48, window=16, base_factor=4 if method == "ntk" else None)
        found = turn_angles(settings.resolved(16), places, long, own, 10_000)
        assert not found[1].any()
        expected = target(places[0, :, None].double())
        torch.testing.assert_close(found[0].double() + places[0, :, None] * own.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [23, QUERIES + 37])
def test_merged_attention_is_what_its_definition_says(causal, tokens):
    """Each score from the distance of its pair alone, one row of a long text and one within the window."""
    generator = torch.Generator().manual_seed(3)
    heads, width, group, near = 4, 8, 3, 5
    query = torch.randn(2, heads, tokens, width, generator=generator)
    key, value = (torch.randn(2, heads // 2, tokens, width, generator=generator) for _ in range(2))
    settings = LongContext(method="self_extend", length=4_000, window=2_000, group=group, neighbours=near)
    own = frequencies(10_000, width)
    places, long = torch.arange(tokens).repeat(2, 1), torch.tensor([True, False])
    merge = merge_of(settings, places, long, own)
    angles = places[..., None] * own.float()
    found = merged_attention(
        turned(query, angles), turned(key, angles), value, merge, None, causal=causal, scaling=0.5
    )  # (2, T, heads, d)

    p, k = torch.meshgrid(torch.arange(tokens), torch.arange(tokens), indexing="ij")
    exact = p - k
    beyond = torch.where(exact > 0, 1, -1) * (
        torch.where(exact > 0, p // group - k // group, k // group - p // group) + near - near // group
    )
    for row, distance in enumerate((torch.where(exact.abs() < near, exact, beyond), exact)):
        for head in range(heads):
            # The score of a pair at distance r: the query turned by r against the key as it is.
            at = distance.flatten()[None, :, None] * own.float()
            asked = turned(query[row, head].repeat_interleave(tokens, 0)[None, None], at)[0, 0]
            scores = (asked.view(tokens, tokens, width) * key[row, head // 2]).sum(-1) * 0.5
            if causal:
                scores = scores.masked_fill(exact < 0, float("-inf"))
            expected = scores.softmax(-1) @ value[row, head // 2]
            torch.testing.assert_close(found[row, :, head], expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["bool", "added"])
def test_merged_attention_with_a_mask_is_plain_attention_where_all_are_neighbours(kind):
    generator = torch.Generator().manual_seed(4)
    query, key, value = (torch.randn(2, 2, 11, 8, generator=generator) for _ in range(3))
    seen = torch.ones(2, 1, 11, 11, dtype=torch.bool).tril()
    seen[1, :, :, 7:] = False
    mask = seen if kind == "bool" else torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    zeros = torch.zeros(2, 11, 4)
    merge = Merge(99, torch.arange(11).repeat(2, 1), zeros + 1.5, zeros + 0.7)
    found = merged_attention(query, key, value, merge, mask, causal=False, scaling=0.3)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=1e-5, rtol=1e-4)
