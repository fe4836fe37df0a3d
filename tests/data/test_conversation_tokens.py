"""Chat templates: their hash, where they end a turn, and those that rewrite or refuse a conversation."""

import json

import pytest

from mlx_dpo.data.chat_template import render, template_hash
from mlx_dpo.data.conversation_tokens import completion_tokens, end_of_turn, prompt_tokens
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.demo.tiny_models import CHATML, GEMMA, make_model, write_tokenizer
from mlx_dpo.errors import DpoError
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer

from ..support.family_prompts import FAMILIES, PROMPTS, REAL, USER, decode, loaded_again, row_of
from ..support.mistakes import assert_told


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
