"""Rules about several pairs at once: repeated prompts, answers off the topic, clusters, lengths."""

import pytest

from mlx_dpo.data.splits import prompt_key
from mlx_dpo.pairs.config import PairsConfig
from mlx_dpo.pairs.filters import NEAR_IDENTICAL, OFF_TOPIC, REMEDIES, TOO_MANY, clusters_of, drop_reasons
from mlx_dpo.pairs.from_curated import DROPPED, make_pairs, request_key, split_rows
from mlx_dpo.pairs.sampled_answers import Said
from mlx_dpo.records import Curated

WINE = "How do I remove red wine stains from a carpet?"
WINE_TOO = "What is the best way to get a red wine stain out of my carpet?"
OTHERS = [
    "Explain how photosynthesis works.",
    "What is the capital of France?",
    "Write a poem about autumn leaves.",
    "How many legs does a spider have?",
    "Name three rivers in Africa.",
    "Why is the sky blue?",
]


def prompt(text):
    return ({"role": "user", "content": text},)


def pair(asked, chosen="Yes, on Monday.", rejected="No."):
    return prompt(asked), chosen, rejected


def curated(text, answer="Yes, on Monday."):
    return Curated(prompt(text), answer, text, f"rows:{text}")


def test_only_the_first_pairs_of_a_prompt_are_kept_whatever_its_case_and_spacing():
    pairs = [pair("Open?"), pair("Shut?"), pair(" OPEN? "), pair("open?"), pair("Shut?")]
    found = drop_reasons(pairs, PairsConfig(per_prompt=2))
    assert found == [None, None, None, TOO_MANY, None]
    assert drop_reasons(pairs, PairsConfig()) == [None] * 5


def test_a_pair_that_is_left_out_takes_no_place():
    pairs = [pair("Open?", "Yes.", "yes."), pair("Open?"), pair("Open?")]
    assert drop_reasons(pairs, PairsConfig(per_prompt=1)) == [NEAR_IDENTICAL, None, TOO_MANY]


def test_every_reason_has_its_remedy_in_the_summary_of_gen_pairs():
    assert REMEDIES.items() <= DROPPED.items()


def test_answers_off_the_topic_are_left_out(minilm):
    pairs = [
        pair(WINE, "Blot the carpet with cold water and salt, then rinse out the wine."),
        pair(WINE, "Paris is the capital of France."),
    ]
    assert drop_reasons(pairs, PairsConfig(embedder=minilm, min_relevance=0.3)) == [None, OFF_TOPIC]
    assert drop_reasons(pairs, PairsConfig(embedder=minilm)) == [None, None]


def test_near_duplicate_prompts_land_on_one_side_of_the_split(minilm):
    rows = [curated(text) for text in (WINE, *OTHERS, WINE_TOO)]
    cluster = clusters_of([row.prompt for row in rows], PairsConfig(embedder=minilm))
    assert len(set(cluster.values())) == 7

    def side_of_each(cluster, seed):
        return {row.id: name for name, row in split_rows(rows, None, 0.4, seed, frozenset(), cluster)}

    sides = [side_of_each(cluster, seed) for seed in range(40)]
    assert all(side[WINE] == side[WINE_TOO] for side in sides)
    assert {side[WINE] for side in sides} == {"train", "valid"}
    apart = [side_of_each({}, seed) for seed in range(40)]
    assert any(side[WINE] != side[WINE_TOO] for side in apart)


def test_a_prompt_near_a_held_out_one_of_another_file_leaves_train():
    rows, held = [curated("a"), curated("b")], [curated("c")]
    cluster = {prompt_key(prompt("a")): 0, prompt_key(prompt("c")): 0}
    split = split_rows(rows, held, 0.1, 0, frozenset(), cluster)
    assert [(name, row.id) for name, row in split] == [("train", "b"), ("valid", "c")]


@pytest.mark.parametrize(
    ("matched", "expected"), [(False, "No, never on any day."), (True, "On Sundays only.")]
)
def test_the_rejected_answer_is_the_first_or_the_one_closest_in_length(matched, expected):
    row = curated("Open?")
    said = [Said(text, False) for text in ("", "No, never on any day.", "On Sundays only.", "No.")]
    config = PairsConfig(length_matched=matched, valid_fraction=0)
    files, dropped = make_pairs([row], None, {request_key(row): said}, config, {}, 0)
    assert [one["rejected"] for one in files["train"]] == [expected] and not dropped


def test_a_setting_that_would_not_be_used_is_refused():
    with pytest.raises(ValueError, match="min_relevance needs an embedder"):
        PairsConfig(min_relevance=0.3)
