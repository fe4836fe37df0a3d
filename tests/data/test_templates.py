"""What is scored is the answer and one end-of-turn, whatever the family's chat template puts around it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mlx_dpo.data.batches import build_batch
from mlx_dpo.data.render import render, template_hash
from mlx_dpo.data.shared_prompts import build_shared
from mlx_dpo.data.templates import completion_tokens, end_of_turn, prompt_tokens
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.demo.tiny_models import CHATML, GEMMA, GRANITE, LLAMA3, make_model, write_tokenizer
from mlx_dpo.errors import DpoError
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.pairs.sampled_answers import cut_text
from mlx_dpo.records import Curated, Preference
from mlx_dpo.training.checks import check_masks

from ..conftest import ROOT
from ..support.mistakes import assert_told

DATA = ROOT / "data"
FAMILIES = {"granite": GRANITE, "chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA}
END = {"granite": "<|end_of_text|>", "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
HEADER = {
    "granite": "<|start_of_role|>assistant<|end_of_role|>",
    "chatml": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<start_of_turn>model\n",
}
TRIMS = {"llama3", "gemma"}
"""Families whose template strips the content of a turn."""

REAL = [
    row["answer"]
    for name in ("curated", "base")
    for row in map(json.loads, (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[::16])
]
ODD = [
    "no",
    ".",
    "0",
    "Grüße aus Zürich – 東京で会いましょう。Привет! नमस्ते",
    "👩‍👩‍👧‍👦 family, 🇨🇭 flag, e\u0301 accent, \u200bnothing, \u00a0space",
    "\U0010ffff\u0000\ufffd",
    "one\ntwo\n\nthree\r\nfour\ttab",
    "trailing newline\n",
    "\n\nleading newlines",
    " leading space",
    "trailing spaces   ",
    "   both   ",
    "```python\nprint('<b>')\n```\n",
    "1. first\n2. second\n\n| a | b |\n|---|---|",
    "word " * 200,
    "user\nassistant\nsystem",
    "</s> [INST] ### Response:",
    "{{ messages }} {% raw %}",
    "<|end_of_text",
    "< |im_end| >",
]
SPELT = [
    "A turn ends with {end} there.",
    "{end}",
    "{end}{end}",
    "It stops. {end}",
    "{end} comes first",
    "two {end} and {end}\n{end} three",
    "Grüße {end} 東京",
]

USER = {"role": "user", "content": "How do I clean silver?"}
TURNS = [
    {"role": "user", "content": "Hello,\n\nwho are you?"},
    {"role": "assistant", "content": "A kettle."},
    {"role": "user", "content": "  Zürich or 東京?  "},
]
PROMPTS = {
    "one turn": (USER,),
    "three turns": tuple(TURNS),
    "five turns": (*TURNS, {"role": "assistant", "content": "Tokyo."}, USER),
    "system": ({"role": "system", "content": "Answer\n\nbriefly."}, USER),
    "system and three turns": ({"role": "system", "content": "Be brief."}, *TURNS),
}


def prompts_of(family):
    """Gemma's template knows no system turn."""
    return {n: p for n, p in PROMPTS.items() if not (family == "gemma" and n.startswith("system"))}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer folder by family, made when first asked for."""
    root = tmp_path_factory.mktemp("tokenizers")

    def get(name):
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            write_tokenizer(folder, FAMILIES[name], REAL, 400)
            eos = FAMILIES[name].special.index(FAMILIES[name].end)
            (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": eos}))
        return folder

    return get


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def tokenizer(family, folders):
    return load_tokenizer(folders(family))


def decode(tokenizer, tokens):
    return tokenizer.decode([int(t) for t in tokens], skip_special_tokens=False)


def shown(family, answer):
    return answer.strip() if family in TRIMS else answer


def row_of(prompt, chosen, rejected, where="pairs.jsonl:1"):
    return Preference(tuple(prompt), chosen, rejected, "1", where)


def assert_scored(tokenizer, family, pair, answers):
    """Decode what the mask of a padded batch of one scores: the answer, one end-of-turn, nothing after it."""
    batch = build_batch([pair])
    inputs, positions = np.array(batch.inputs), np.array(batch.positions)
    targets, mask = np.array(batch.targets), np.array(batch.mask)
    for row, answer in enumerate(answers):
        scored = targets[row][mask[row]]
        assert decode(tokenizer, scored) == shown(family, answer) + END[family]
        ends = [i for i, token in enumerate(scored) if int(token) in tokenizer.eos_token_ids]
        assert ends == [len(scored) - 1]
        # `positions` points at the token before each scored one: the header's last, then the answer's.
        before = inputs[row][positions[row][mask[row]]]
        np.testing.assert_array_equal(before[1:], scored[:-1])
        assert before[0] == pair.prompt[-1]
        assert HEADER[family].endswith(decode(tokenizer, before[:1]))


@pytest.mark.parametrize(("family", "prompt"), [(f, n) for f in FAMILIES for n in prompts_of(f)])
def test_what_is_scored_decodes_to_the_answer_and_one_end_of_turn(folders, family, prompt):
    tokenizer = load_tokenizer(folders(family))
    spelt = [text.format(end=end) for text in SPELT for end in END.values()]
    answers = REAL + ODD + spelt
    rows = [
        row_of(PROMPTS[prompt], chosen, rejected, f"pairs.jsonl:{number}")
        for number, (chosen, rejected) in enumerate(zip(answers, answers[1:] + answers[:1], strict=True), 1)
    ]
    pairs, counts = tokenize_pairs(rows, tokenizer, 2048)
    assert (counts.kept, counts.cut) == (len(rows), 0)
    for row, pair in zip(rows, pairs, strict=True):
        assert_scored(tokenizer, family, pair, (row.chosen, row.rejected))
        assert decode(tokenizer, pair.prompt).endswith(HEADER[family])
    check_masks(rows, pairs, tokenizer, 2048)


@pytest.mark.parametrize(("family", "prompt"), [(f, n) for f in FAMILIES for n in prompts_of(f)])
def test_of_a_cut_off_answer_all_its_text_is_scored_and_no_end(folders, family, prompt):
    tokenizer = load_tokenizer(folders(family))
    spelt = [text.format(end=end) for text in SPELT for end in END.values()]
    answers = [a[: max(1, 2 * len(a) // 3)] for a in REAL] + ODD + spelt
    rows = [
        row_of(PROMPTS[prompt], f"Whole {number}.", answer, f"pairs.jsonl:{number}")
        for number, answer in enumerate(answers, 1)
    ]
    rows = [replace(row, rejected_cut=True) for row in rows]
    pairs, counts = tokenize_pairs(rows, tokenizer, 2048)
    assert (counts.kept, counts.cut, counts.cut_off) == (len(rows), 0, len(rows))
    for row, pair in zip(rows, pairs, strict=True):
        batch = build_batch([pair])
        targets, mask = np.array(batch.targets), np.array(batch.mask)
        chosen, rejected = (targets[branch][mask[branch]] for branch in (0, 1))
        assert decode(tokenizer, chosen) == row.chosen + END[family]
        assert decode(tokenizer, rejected) == shown(family, row.rejected).rstrip()
        assert not set(rejected.tolist()) & tokenizer.eos_token_ids
        shared = build_shared([pair])
        assert np.array(shared.lengths).tolist() == [len(chosen), len(rejected)]
    check_masks(rows, pairs, tokenizer, 2048)


EXOTIC = [
    "Grüße aus Zürich – 東京で会いましょう。Привет! नमस्ते",
    "👩‍👩‍👧‍👦 family, 🇨🇭 flag 🙂",
    "a.\n\n\nb\n\n- c",
]


def test_wherever_an_answer_is_cut_off_its_text_becomes_the_first_of_its_tokens(tokenizer):
    """In the middle of a character, a word or white space: at most an unfinished last character is lost."""
    end = end_of_turn(tokenizer)
    for answer in REAL[::4] + EXOTIC:
        whole = completion_tokens(tokenizer, (USER,), answer, end)
        for count in range(4, len(whole)):
            text = cut_text(tokenizer, Curated((USER,), "", "1"), whole[:count], end)
            scored = completion_tokens(tokenizer, (USER,), text, end, cut=True)
            assert scored == whole[: len(scored)]
            lost = tokenizer.decode(whole[len(scored) : count])
            assert not lost.replace("\ufffd", "").strip(), (answer, count, lost)


def loaded_again(tokenizer, template, folder):
    """A tokenizer whose token 1 is </s>, as mlx_lm loads it with a chat template."""
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 1}))
    return load_tokenizer(folder)


def test_a_line_break_in_one_token_with_the_full_stop_is_left_off_with_it(tmp_path):
    """White space at the end is stripped: without it the full stop is another token than the model's."""
    from tokenizers import Tokenizer, decoders, models

    words = ["<unk>", "</s>", ":", ".", "\n", *"Rub", " ", *"it", ".\n"]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [(".", "\n")], unk_token="<unk>", fuse_unk=False)
    )
    tokenizer.decoder = decoders.Fuse()
    template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ '</s>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '' }}{% endif %}"
    )
    loaded = loaded_again(tokenizer, template, tmp_path)
    end, prompt = end_of_turn(loaded), ({"role": "user", "content": ":"},)
    ids = loaded.encode("Rub it.\n", add_special_tokens=False)
    assert ids[-1] == words.index(".\n")
    assert cut_text(loaded, Curated(prompt, "", "1"), ids, end) == "Rub it"
    assert (
        cut_text(loaded, Curated(prompt, "", "1"), [*ids[:-1], words.index("."), words.index("\n")], end)
        == "Rub it."
    )


def test_an_answer_that_begins_with_white_space_keeps_its_end(tokenizer):
    """White space is stripped from the start, so its first token becomes another; all others stay."""
    end = end_of_turn(tokenizer)
    ids = tokenizer.encode(" Gladly! First, rub the copper pan with", add_special_tokens=False)
    assert (
        cut_text(tokenizer, Curated((USER,), "", "1"), ids, end) == "Gladly! First, rub the copper pan with"
    )


FAULTS = {
    "an end after an answer that was cut off": lambda pair, end: replace(
        pair, rejected=np.append(pair.rejected, np.int32(end))
    ),
    "the last token of an answer that was cut off": lambda pair, end: replace(
        pair, rejected=pair.rejected[:-1]
    ),
    "no end after a whole answer": lambda pair, end: replace(pair, chosen=pair.chosen[:-1]),
    "two ends": lambda pair, end: replace(pair, chosen=np.append(pair.chosen, np.int32(end))),
    "another token": lambda pair, end: replace(pair, rejected=pair.rejected[::-1].copy()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_of_masks_finds_each_fault(fault, tokenizer):
    row = replace(row_of((USER,), "Rub it with lemon.", "Wash it with the"), rejected_cut=True)
    (pair,), _ = tokenize_pairs([row], tokenizer, 256)
    check_masks([row], [pair], tokenizer, 256)
    wrong = FAULTS[fault](pair, end_of_turn(tokenizer))
    with pytest.raises(DpoError, match="the scored tokens are not the"):
        check_masks([row], [wrong], tokenizer, 256)


def test_the_check_of_masks_lets_max_length_cut_answers_of_both_kinds(tokenizer):
    answer = "Grüße aus Zürich – 東京で会いましょう。 " * 3
    row = replace(row_of((USER,), answer, "x " + answer), rejected_cut=True)
    shortest = len(prompt_tokens(tokenizer, row.prompt)) + 2
    whole, _ = tokenize_pairs([row], tokenizer, 2048)
    for max_length in range(shortest, shortest + max(len(whole[0].chosen), len(whole[0].rejected)) + 2):
        pairs, counts = tokenize_pairs([row], tokenizer, max_length)
        check_masks([row], pairs, tokenizer, max_length)
        assert counts.cut_off == 1
        longer = len(whole[0].prompt) + max(len(whole[0].chosen), len(whole[0].rejected))
        assert counts.cut == (longer > max_length)


def test_the_newline_that_granite_renders_after_the_end_is_not_scored(folders):
    tokenizer = load_tokenizer(folders("granite"))
    turn = {"role": "assistant", "content": "Lemon."}
    whole = render(tokenizer, [USER, turn], generation_prompt=False)
    assert whole.endswith("Lemon.<|end_of_text|>\n")
    tokens = completion_tokens(tokenizer, (USER,), "Lemon.", end_of_turn(tokenizer))
    assert decode(tokenizer, tokens) == "Lemon.<|end_of_text|>"


def test_the_prompts_tokens_begin_the_whole_conversations_tokens(tokenizer, family):
    end = end_of_turn(tokenizer)
    for prompt in prompts_of(family).values():
        before = prompt_tokens(tokenizer, prompt)
        for answer in [*REAL, "no", "Grüße aus Zürich", "👩‍👩‍👧‍👦", "```python\nx\n```"]:
            turn = {"role": "assistant", "content": answer}
            text = render(tokenizer, [*prompt, turn], generation_prompt=False)
            whole = tokenizer.encode(text, add_special_tokens=False)
            assert whole[: len(before)] == before
            branch = before + completion_tokens(tokenizer, prompt, answer, end)
            assert whole[: len(branch)] == branch
            assert decode(tokenizer, whole[len(branch) :]).strip() == ""


def test_a_prompt_is_rendered_by_the_template_once_without_a_second_start_token(tokenizer, family):
    tokens = prompt_tokens(tokenizer, (USER,))
    bos = {"llama3": "<|begin_of_text|>", "gemma": "<bos>"}.get(family)
    text = decode(tokenizer, tokens)
    assert text.endswith(HEADER[family])
    assert text.count("How do I clean silver?") == 1
    if bos:
        assert text.startswith(bos)
        assert text.count(bos) == 1


def test_a_pair_that_was_cut_scores_the_answers_start_and_no_end(tokenizer, family):
    row = row_of((USER,), "word " * 200, "short")
    room = 30
    max_length = len(prompt_tokens(tokenizer, row.prompt)) + room
    pairs, counts = tokenize_pairs([row], tokenizer, max_length)
    batch = build_batch(pairs)
    targets, mask = np.array(batch.targets), np.array(batch.mask)
    chosen, rejected = (targets[i][mask[i]] for i in range(2))
    assert counts.cut == 1
    assert len(chosen) == room
    assert ("word " * 200).startswith(decode(tokenizer, chosen))
    assert decode(tokenizer, rejected) == "short" + END[family]


def test_the_end_of_turn_is_the_templates_and_stops_sampling(tokenizer, family):
    end = end_of_turn(tokenizer)
    assert decode(tokenizer, [end]) == END[family]
    assert end in tokenizer.eos_token_ids


def test_gemma_ends_a_turn_with_another_token_than_its_eos_and_stops_at_both(folders):
    tokenizer = load_tokenizer(folders("gemma"))
    assert tokenizer.decode([tokenizer.eos_token_id]) == "<eos>"
    assert {tokenizer.decode([t]) for t in tokenizer.eos_token_ids} == {"<eos>"}
    end_of_turn(tokenizer)
    assert {tokenizer.decode([t]) for t in tokenizer.eos_token_ids} == {"<eos>", "<end_of_turn>"}


def test_a_sampled_answer_stops_at_the_turns_end_where_the_config_names_another_token(tmp_path):
    """A random model says <end_of_turn> once in about 280 tokens; its config knows <eos> only."""
    folder = make_model(tmp_path / "gemma", "llama", REAL, vocab=280, hidden=32, layers=1)
    write_tokenizer(folder, GEMMA, REAL, 280)
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": GEMMA.special.index("<eos>")}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    end_of_turn(tokenizer)
    model, _ = load_model(folder)
    prompts = [prompt_tokens(tokenizer, (USER,))] * 12
    settings = GenerateConfig(max_tokens=400, temperature=1.0, top_p=1.0)
    answers = list(generate_answers(model, tokenizer, prompts, settings))
    assert sum(not a.capped for a in answers) >= 3
    assert not any("<end_of_turn>" in a.text or "<eos>" in a.text for a in answers)


def test_a_thinking_block_before_the_answer_is_not_taken_for_its_end(folders, tmp_path):
    """A template that closes an empty block in the answer's turn but not in the generation prompt."""
    folder = edited(
        folders("chatml"), tmp_path / "closing", "{% if enable_thinking is defined", "{% if false"
    )
    tokenizer = load_tokenizer(folder)
    assert render(tokenizer, (USER,), generation_prompt=True).endswith("<|im_start|>assistant\n")
    assert decode(tokenizer, [end_of_turn(tokenizer)]) == "<|im_end|>"


def edited(folder, target, old, new):
    """A copy of a tokenizer folder whose template has `new` in place of `old`."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert old in settings["chat_template"]
    settings["chat_template"] = settings["chat_template"].replace(old, new)
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    return target


def test_changing_the_chat_template_changes_its_hash(family, folders, tmp_path):
    first = template_hash(load_tokenizer(folders(family)))
    again = template_hash(load_tokenizer(folders(family)))
    assert first == again
    assert len(first) == 16 and int(first, 16) >= 0
    system = edited(folders(family), tmp_path / "system", "{% for m", "{{ 'Be kind.' }}{% for m")
    silent = edited(folders(family), tmp_path / "silent", "{% endfor %}", "{% endfor %}{# no change #}")
    hashes = {first, *(template_hash(load_tokenizer(f)) for f in (system, silent))}
    assert len(hashes) == 3


def test_each_familys_template_has_a_hash_of_its_own(folders):
    assert len({template_hash(load_tokenizer(folders(name))) for name in FAMILIES}) == 4


def test_a_template_that_refuses_a_system_turn_is_an_error_that_names_the_row(folders):
    tokenizer = load_tokenizer(folders("gemma"))
    rows = [
        row_of((USER,), "yes", "no", "pairs.jsonl:1"),
        row_of(PROMPTS["system"], "yes", "no", "pairs.jsonl:2"),
    ]
    with pytest.raises(DpoError) as caught:
        tokenize_pairs(rows, tokenizer, 256)
    what = "the chat template refuses this conversation: System role not supported"
    assert_told(caught.value, "pairs.jsonl:2", what, "check the order of roles", "template-refuses")


def test_a_template_that_rewrites_the_prompt_once_an_answer_follows_is_refused(folders, tmp_path):
    folder = edited(folders("granite"), tmp_path / "count", "{% for m", "{{ messages | length }}{% for m")
    tokenizer = load_tokenizer(folder)
    with pytest.raises(DpoError) as caught:
        tokenize_pairs([row_of((USER,), "yes", "no", "pairs.jsonl:9")], tokenizer, 256)
    found = "'2<|start_of_role|>user<|end_of' instead of '1<|start_of_role|>user<|end_of'"
    assert_told(caught.value, str(folder), found, "model.chat_template", "template-changes-prompt")


def test_without_a_template_turns_are_joined_by_blank_lines_and_end_with_eos(folders, tmp_path):
    folder = edited(folders("granite"), tmp_path / "plain", "{%", "{%")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    prompt = ({"role": "system", "content": "Be brief."}, USER)
    assert decode(tokenizer, prompt_tokens(tokenizer, prompt)) == "Be brief.\n\nHow do I clean silver?\n\n"
    answers = ("Lemon. <|end_of_text|>", " and salt\n")
    pairs, _ = tokenize_pairs([row_of(prompt, *answers)], tokenizer, 256)
    for answer, tokens in zip(answers, (pairs[0].chosen, pairs[0].rejected), strict=True):
        assert decode(tokenizer, tokens) == answer + "<|end_of_text|>"
        assert [i for i, t in enumerate(tokens) if t == tokenizer.eos_token_id] == [len(tokens) - 1]


def test_a_tokenizer_that_marks_the_start_of_text_spells_the_answer_as_in_the_conversation(tmp_path):
    """SentencePiece puts a mark before every text it is given; the answer is no text of its own."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    words = ["<unk>", "</s>", "[I]", "[A]", "▁", *"Rubit.", "Rub", "▁it", "▁Rub"]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    template = (
        "{% for m in messages %}{{ ('I:' if m.role == 'user' else ' A:') + m.content }}"
        "{% if m.role == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' A:' }}{% endif %}"
    )
    loaded = loaded_again(tokenizer, template, tmp_path)
    prompt, mark = [{"role": "user", "content": "it"}], words.index("▁")
    completion = completion_tokens(loaded, prompt, "Rub", end_of_turn(loaded))
    assert loaded.encode("Rub", add_special_tokens=False)[0] == mark
    assert completion[0] == words.index("R")


def test_a_template_that_cuts_an_answer_is_noticed_on_every_row(tmp_path):
    """As Qwen's does at </think>: the rest alone would be scored."""
    cutting = CHATML._replace(
        template=CHATML.template.replace("m['content'] +", "m['content'].split('</think>')[-1] +")
    )
    write_tokenizer(tmp_path, cutting, ["The answer is Rome, not Paris."] * 5, 400)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "eos_token_id": 2}))
    tokenizer = load_tokenizer(tmp_path)
    prompt = [{"role": "user", "content": "Where?"}]
    end = end_of_turn(tokenizer)
    assert tokenizer.decode(completion_tokens(tokenizer, prompt, "Rome", end)) == "Rome<|im_end|>"
    with pytest.raises(DpoError, match="the chat template changes this answer"):
        completion_tokens(tokenizer, prompt, "The answer is Rome</think>Paris", end)
