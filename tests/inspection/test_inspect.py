"""The pair doctor: it reads a file to its end, names each defect by line, and leaves good rows alone."""

import random
import re
from pathlib import Path

import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data import chat_template
from mlx_dpo.data.similarity import alike
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.demo.tiny_models import GEMMA, GRANITE
from mlx_dpo.errors import DpoError
from mlx_dpo.inspection.answer_checks import ends_mid_sentence
from mlx_dpo.inspection.defects import ERROR, KINDS, WARNING
from mlx_dpo.inspection.duplicates import first_with
from mlx_dpo.inspection.refused_rows import refused
from mlx_dpo.inspection.report import as_text
from mlx_dpo.inspection.row_checks import CHECKS, build_context
from mlx_dpo.inspection.scan import scan
from mlx_dpo.inspection.scored_text import masked
from mlx_dpo.jobs.inspect import inspect_pairs
from mlx_dpo.models.load import load_tokenizer
from mlx_dpo.pairs.config import PairsConfig
from mlx_dpo.pairs.from_curated import drop_reason
from mlx_dpo.pairs.sampled_answers import Said

from ..data.test_bad_rows import PAIRS
from ..support.families import QWEN3, write_family
from ..support.mistakes import cases, chat, lines, pair, write

HERE = Path(__file__).parent
FILE, VALID = HERE / "defects.jsonl", HERE / "defects_valid.jsonl"
MAX_LENGTH = 128
REFUSED = [  # from line 2 on
    "not-json",
    "not-an-object",
    "not-utf-8",
    "half-character",
    "unpaired",
    "missing-prompt",
    "missing-chosen",
    "missing-rejected",
    "empty-prompt",
    "empty-chosen",
    "empty-rejected",
    "empty-system",
    "bad-turn",
    "bad-role",
    "wrong-type",
    "not-one-answer",
    "prompt-ends-in-answer",
    "prompt-differs",
    "conversations-part",
    "two-systems",
    "duplicate-id",
    "prompt-too-long",
    "same-once-cut",
    "identical-answers",
    "written-twice",
    "other-format",
    "bad-tools",
    "not-text",
    "left-out",
]
WARNED = [  # after these
    "mojibake",
    "replacement-character",
    "control-characters",
    "carriage-return",
    "double-escaped",
    "markup-left-over",
    "role-header-in-answer",
    "reasoning-left-over",
    "placeholder",
    "no-words",
    "refusal",
    "mentions-being-an-ai",
    "repeats",
    "ends-mid-sentence",
    "open-code-block",
    "near-identical",
    "one-continues-other",
    "far-longer",
    "far-shorter",
    "cut",
    "special-token-in-answer",
    "special-token-in-prompt",
    "prompt-echo",
    "unfilled-placeholder",
    "duplicate-pair",
    "contradicts",
    "scores-tie",
    "scores-against",
    "indent-stripped",
]


@pytest.fixture(scope="module")
def found(models):
    """The inspection of the two files that hold one row of each kind."""
    settings = [
        f"model.path={models('granite')}",
        f"data.train={FILE}",
        f"data.valid={VALID}",
        f"data.max_length={MAX_LENGTH}",
    ]
    return inspect_pairs(load_config(None, settings), ask_model=False)


def scanned(path, tokenizer, max_length=MAX_LENGTH):
    return scan(path, build_context(tokenizer, max_length, PairsConfig().max_similarity))


def test_each_row_with_a_defect_is_named_by_its_line_and_no_other_row_or_kind(found):
    named = [(d.file, d.line, d.code) for d in found.defects]
    expected = [(str(FILE), line, code) for line, code in enumerate(REFUSED + WARNED, 2)]
    assert named == [*expected, (str(VALID), 2, "leak")]


def test_the_files_hold_every_kind_but_those_of_other_templates_and_other_files():
    unseen = set(KINDS) - {*REFUSED, *WARNED, "leak", "near-leak"}
    curated, huge = {"missing-answer", "empty-answer"}, {"line-too-long", "bad-cells"}
    assert unseen == {*TEMPLATES, *curated, *huge, "unknown-token", "refused"}


def test_errors_are_what_a_run_refuses_or_drops(found, tokenizer, write_rows):
    """Each row with a warning is trained on; of those with an error none is."""
    rows = FILE.read_bytes().splitlines(keepends=True)
    context = build_context(tokenizer, MAX_LENGTH, 0.95)
    path = write_rows("one.jsonl", [])
    for line, code in enumerate(REFUSED + WARNED, 2):
        error = KINDS[code].severity == ERROR
        assert error == (code in REFUSED)
        path.write_bytes((rows[0] if code == "duplicate-id" else b"") + rows[line - 1])
        if error:
            with pytest.raises(DpoError):
                tokenize_pairs(read_pairs(path), tokenizer, MAX_LENGTH)
        else:
            assert tokenize_pairs(read_pairs(path), tokenizer, MAX_LENGTH)[1].kept == 1
            assert len(scan(path, context).pairs) == 1


def test_every_kind_says_what_it_means_and_every_defect_what_to_do(found):
    assert all(kind.meaning and kind.severity in (ERROR, WARNING) for kind in KINDS.values())
    assert all(d.what and d.remedy for d in found.defects)
    assert {code for code, kind in KINDS.items() if kind.severity == WARNING} >= set(CHECKS)


def test_what_a_run_would_say_of_a_row_is_said_of_it_here(found):
    said = {d.line: (d.what, d.remedy) for d in found.defects}
    assert "'chosen'" in said[8][0] and '"chosen"' in said[8][1]
    assert "'clean'" in said[22][0] and f"{FILE}:1" in said[22][0]


def test_a_warning_names_the_answer_and_shows_the_place(found):
    said = {d.line: d.what for d in found.defects if d.file == str(FILE)}
    assert said[36] == "rejected: 'Fill it with sand.<br>Then shake it.'"
    assert said[43].startswith("chosen: only 18% ")
    assert said[44] == "rejected: ends with 'up somewhere. Then take a peg and put it'"
    assert said[47] == "chosen begins with all of the other answer"
    assert said[50] == "chosen and rejected: does not end within 128 tokens"
    assert f"{FILE}:1" in said[55] and "same pair" in said[55]
    assert said[56] == f"{FILE}:1 prefers the other answer"
    leak = found.defects[-1]
    assert (leak.file, leak.line, leak.code) == (str(VALID), 2, "leak") and f"{FILE}:60" in leak.what


@cases({name: case for name, case in PAIRS.items() if re.match(r"rows.jsonl:\d", case[1])})
def test_every_refusal_that_names_a_row_has_a_kind_of_its_own(case, tmp_path, monkeypatch, tokenizer):
    """With the place, the words and the remedy of a run."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", case[0])
    found = scanned("rows.jsonl", tokenizer).defects
    defect = next(d for d in found if KINDS[d.code].severity == ERROR)
    with pytest.raises(DpoError) as caught:
        read_pairs("rows.jsonl")
    assert str(defect) == f"{caught.value.where}: {caught.value.what}"
    assert (defect.remedy, defect.code) == (caught.value.hint, caught.value.code)
    assert defect.code != "refused"


COUNTING = GRANITE._replace(
    template=GRANITE.template.replace(
        "{% for m", "{% if messages[0]['content'] == 'How?' %}{{ messages | length }}{% endif %}{% for m"
    )
)
ENDLESS = GRANITE._replace(
    template=GRANITE.template.replace(
        "{% for m",
        "{% if messages[0]['content'] == 'How?' %}{% for i in range(90000) %}{% for j in range(90000) %}"
        "{% endfor %}{% endfor %}{% endif %}{% for m",
    )
)
LARGE = GRANITE._replace(
    template=GRANITE.template.replace(
        "{% for m", "{% if messages[0]['content'] == 'How?' %}{{ 'a' * 10000000 }}{% endif %}{% for m"
    )
)
CALL = {"type": "function", "function": {"name": "dry", "arguments": {}}}
CUTTING = GRANITE._replace(template=GRANITE.template.replace("m['content']", "m['content'].split('So')[-1]"))
EARLIER = chat(("user", "Hi."), ("assistant", "<think>\nA guest.\n</think>\n\nHello."), ("user", "How?"))
TEMPLATES = {
    "template-refuses": (GEMMA, {"system": "Be brief."}),
    "template-endless": (ENDLESS, {}),
    "template-too-large": (LARGE, {}),
    "template-changes-prompt": (COUNTING, {}),
    "template-changes-answer": (CUTTING, {}),
    "template-leaves-out": (
        GRANITE,
        {"chosen": [{"role": "assistant", "content": "So.", "tool_calls": [CALL]}]},
    ),
    "earlier-reasoning-left-out": (QWEN3, {"prompt": EARLIER}),
    "reasoning-off": (QWEN3, {"chosen": "<think>\nBecause.\n</think>\n\nSo."}),
}


@pytest.mark.parametrize("code", TEMPLATES)
def test_rows_that_a_template_cannot_take_are_named(code, tmp_path, write_rows, monkeypatch):
    monkeypatch.setattr(chat_template, "_SECONDS", 0.3)
    chat_format, changes = TEMPLATES[code]
    write_family(tmp_path, chat_format)
    rows = write_rows("rows.jsonl", [pair(**changes)])
    assert [d.code for d in scanned(rows, load_tokenizer(tmp_path)).defects] == [code]


def test_a_message_that_no_kind_knows_is_still_named():
    defect = refused(DpoError("is cursed", hint="burn it"), "rows.jsonl:3")
    assert (str(defect), defect.code, defect.remedy) == ("rows.jsonl:3: is cursed", "refused", "burn it")


SOUND = {
    "a list": "Take these:\n- one bucket\n- a brush with long soft hair",
    "a table": "| tool | use |\n|---|---|\n| brush | it takes off the dust",
    "a title": "## The brush and all that it can do",
    "a link": "It is told there. See the page at https://example.org/brush",
    "code": "Run it.\n```python\nprint(f'<b>{question}</b>\\n\\nUser: hello')\n```",
    "code in a line": "Write `<br>` where the line should end, or `&nbsp;` for a space.",
    "a comparison": "It holds if a < b and c > d, and then only.",
    "LaTeX": r"The gradient is $\nabla f$, with \neq and \nu in it.",
    "letters with accents before quotes": "Er sagte „groß“ – «liberté »; MAÇÃ e Ü-Ei.",
    "emoji joined by invisible signs": "Well done \U0001f468\u200d\U0001f469\u200d\U0001f467!",
    "Chinese": "用柠檬和盐擦拭铜壶,然后用水冲洗。再用软布擦干,放在通风的地方。",
    "an apology": "I'm sorry for your loss. Polish the frame with wax.",
    "what one cannot do": "I can not help noticing that vinegar works; I cannot be sure why.",
    "a question with a name": "Ask the user: does it leak?",
    "a chorus": "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily.",
    "quotation at the end": 'She said: "Let it dry first."',
    "the word none": "None of them works as well as lemon.",
}


@cases(SOUND)
def test_nothing_is_said_of_sound_answers(case, tokenizer, write_rows):
    other = "Put it into the cellar for a week, and then look at it again by daylight."
    rows = [pair(chosen=case, rejected=other), pair(chosen=other, rejected=case, prompt="Why?")]
    assert scanned(write_rows("rows.jsonl", rows), tokenizer, 512).defects == []


def test_what_is_alike_is_what_gen_pairs_drops(pair_rows):
    """At low and high thresholds, on answers and on such with some letters changed."""
    answers = [answer for row in pair_rows[::60] for answer in (row["chosen"], row["rejected"])]
    draw = random.Random(0)
    for answer in answers[:12]:
        places = draw.sample(range(len(answer)), draw.randint(1, 6))
        answers.append("".join("-" if i in places else letter for i, letter in enumerate(answer.upper())))
    for least in (0.6, 0.8, 0.9, 0.95, 1.0):
        config = PairsConfig(max_similarity=least)
        found = [alike(a, b, least) for a in answers for b in answers]
        assert found == [
            drop_reason(a, Said(b, cut=False), config) is not None for a in answers for b in answers
        ]
        assert True in found and False in found


def test_the_first_of_several_equal_values_is_found():
    assert first_with(np.array([7, 8, 9]), np.array([9, 7, 7])).tolist() == [1, -1, 0]
    assert first_with(np.array([7, 8]), np.array([], int)).tolist() == [-1, -1]


def test_a_prompt_that_ranks_three_answers_is_neither_doubled_nor_contradicted(tokenizer, write_rows):
    ranked = [
        pair(chosen="First.", rejected="Second."),
        pair(chosen="First.", rejected="Third."),
        pair(chosen="Second.", rejected="Third."),
    ]
    assert scanned(write_rows("rows.jsonl", ranked), tokenizer).defects == []


def test_lines_are_those_of_the_file_also_after_blank_ones(tokenizer, tmp_path):
    write(tmp_path / "rows.jsonl", "\n\n" + lines(pair()) + "\n" + lines(pair(prompt="")))
    seen = scanned(tmp_path / "rows.jsonl", tokenizer)
    assert [(d.line, d.code) for d in seen.defects] == [(5, "empty-prompt")]
    assert (seen.rows, len(seen.pairs)) == (2, 1)


def test_pairs_that_are_found_are_those_that_a_run_would_train_on(mixed_file, tokenizer):
    seen = scanned(mixed_file, tokenizer, 64).pairs
    expected, _ = tokenize_pairs(read_pairs(mixed_file), tokenizer, 64)
    assert [(p.where, p.prompt.tolist(), p.chosen.tolist(), p.rejected.tolist()) for p in seen] == [
        (p.where, p.prompt.tolist(), p.chosen.tolist(), p.rejected.tolist()) for p in expected
    ]
    assert seen.sizes.tolist() == [[len(p.prompt), len(p.chosen), len(p.rejected)] for p in expected]
    assert [text.where for text in seen.texts] == [p.where for p in expected]


def test_a_row_is_shown_as_the_model_gets_it(tokenizer, write_rows):
    rows = [
        pair(prompt=chat(("system", "Be brief."), ("user", "How?")), rejected="Thus it\nis."),
        pair(chosen="Rub it. " * 60, prompt="Why?"),
        pair(rejected="Thus it is and", rejected_cut=True),
    ]
    found = scanned(write_rows("rows.jsonl", rows), tokenizer).pairs
    whole, cut, open_end = (masked(p, row, tokenizer) for p, row in zip(found, found.texts, strict=True))
    role, end = "<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>"
    assert whole.prompt == (
        f"{role.format('system')}Be brief.{end}\n{role.format('user')}How?{end}\n{role.format('assistant')}"
    )
    assert (whole.chosen, whole.rejected) == (f"So.{end}", f"Thus it\nis.{end}")
    assert whole.text().splitlines()[2:] == [
        f"  chosen   |So.{end}|  {whole.tokens[1]} tokens",
        f"  rejected |Thus it⏎is.{end}|  {whole.tokens[2]} tokens",
    ]
    assert end not in cut.chosen and cut.tokens[0] + cut.tokens[1] == MAX_LENGTH
    assert (open_end.chosen, open_end.rejected) == (f"So.{end}", "Thus it is and")
    assert (
        open_end.text().splitlines()[3]
        == f"  rejected |Thus it is and|  {open_end.tokens[2]} tokens, cut off"
    )
    assert cut.text().count("cut off") == whole.text().count("cut off") == 0


CUT_OFF = "Take a soft cloth. Then rub the copper with lemon and"


def test_how_an_answer_ends_is_no_defect_where_it_is_marked_as_cut_off(tokenizer, write_rows):
    code = "Run this program.\n```python\nprint(1)\nprint("
    long = "Rub it. " * 100
    rows = [
        pair(prompt=f"{number} how?", chosen="Rub it with lemon and salt, and rinse it.", rejected=answer)
        for number, answer in enumerate((CUT_OFF, code, long))
    ]
    found = [
        [(d.line, d.code) for d in scanned(write_rows("rows.jsonl", given), tokenizer).defects]
        for given in (rows, [row | {"rejected_cut": True} for row in rows])
    ]
    plain = [(1, "ends-mid-sentence"), (2, "open-code-block"), (3, "cut")]
    assert [d for d in found[0] if d in plain] == plain
    assert found[1] == [d for d in found[0] if d not in plain]
    whole = [row | {"chosen_cut": True} for row in rows]
    marked = scanned(write_rows("rows.jsonl", whole), tokenizer).defects
    assert [(d.line, d.code) for d in marked] == found[0], "of the other answer nothing is said"


def test_an_inspection_counts_the_pairs_with_a_cut_off_answer(models, write_rows):
    rows = [pair(prompt=f"{i}?", rejected_cut=i % 3 == 0) for i in range(10)]
    settings = [
        f"model.path={models('granite')}",
        f"data.train={write_rows('rows.jsonl', rows)}",
        "data.valid=null",
    ]
    found = inspect_pairs(load_config(None, settings), ask_model=False)
    assert found.files[0].cut_off == 4
    first = as_text(found, lambda step: "").splitlines()[0]
    assert "10 pairs to train on, 4 with a cut-off answer" in first
    assert [row.cut_off for row in found.shown] == [(False, True), (False, False), (False, False)]


@pytest.mark.parametrize(
    ("end", "cut_off"),
    [
        ("The next one is The Catcher in the Rye by J.D. Salinger", False),
        ("git branch --branch master", False),
        ("Then you put the cups on the", True),
        ("Then you put a well-known brand of cups on the", True),
    ],
)
def test_a_name_or_a_command_at_the_end_is_no_sentence_that_was_cut_off(end, cut_off):
    assert bool(ends_mid_sentence(f"There are two ways. {end}")) == cut_off
