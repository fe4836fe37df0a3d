"""Rows and templates made to cost much: each is answered in a second of work, and in little memory."""

import time

import pytest

from mlx_dpo.data.chat_template import render
from mlx_dpo.data.own_format import to_preference
from mlx_dpo.data.template_sandbox import MOST
from mlx_dpo.data.tokenize import RowTokenizer
from mlx_dpo.errors import DpoError
from mlx_dpo.models.load import load_tokenizer

from ..support.families import FAMILIES, write_family
from ..support.mistakes import assert_told, cases

WHERE = "rows.jsonl:1"


def turns(texts):
    """A conversation of these texts, the user's first."""
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


def conversations(prompt, texts):
    row = {name: turns([*texts, name]) for name in ("chosen", "rejected")}
    return row | {"prompt": prompt}


@pytest.fixture
def quick():
    """Within two seconds of this process's work."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 2


TRANSCRIPTS = {
    "names and turns": ("\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: So?\n\nAssistant:", True),
    "other signs": ("[user] Hi | [assistant] hello. | [user] so?", True),
    "nothing between": ("Hi Hello. So?", True),
    "another order": ("Human: Hello.\n\nAssistant: Hi\n\nHuman: So?", False),
    "one turn less": ("Human: Hi\n\nAssistant: Hello.\n\nHuman: Why?", False),
    "more than names between": ("Human: Hi\n\nAssistant: Well. Hello.\n\nHuman: So?", False),
    "another sign in a turn": ("Human: Hi\n\nAssistant: Hello?\n\nHuman: So?", False),
    "the start of a longer word": ("Human: Hit\n\nAssistant: Hello.\n\nHuman: So?", False),
}


@cases(TRANSCRIPTS)
def test_a_prompt_that_is_a_transcript_of_the_turns_and_no_other_is_accepted(case):
    prompt, same = case
    row = conversations(prompt, ["Hi", "Hello.", "So?"])
    if same:
        assert len(to_preference(row, WHERE).prompt) == 3
    else:
        with pytest.raises(DpoError, match="'prompt' differs from the start"):
            to_preference(row, WHERE)


def test_turns_that_are_names_of_roles_are_found_in_a_transcript():
    texts = ["Question", "A", "Q: user"]
    row = conversations("Question: Question\nAnswer: A\nQuestion: Q: user", texts)
    assert [turn["content"] for turn in to_preference(row, WHERE).prompt] == texts


COSTLY = {
    "turns that are signs": conversations("!" * 44 + "z", ["!"] * 43),
    "many turns that are signs": conversations("!" * 60_000 + "z", ["!"] * 20_001),
    "a long turn that is never whole": conversations("a " * 100_000, ["a " * 50_000 + "z"]),
    "line breaks": {"prompt": "Human:" + "\n" * 500_000, "chosen": "So.", "rejected": "No."},
    "lines of blanks": {"prompt": "Human:" + " \n" * 300_000, "chosen": "So.", "rejected": "No."},
    "blanks": {"prompt": "Human:" + " " * 500_000 + "x", "chosen": "So.", "rejected": "No."},
}


@cases(COSTLY)
def test_a_row_that_patterns_would_work_on_for_minutes_is_answered_at_once(case, quick):
    try:
        to_preference(case, WHERE)
    except DpoError as error:
        assert error.code == "prompt-differs"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    write_family(folder, FAMILIES["qwen3"])
    return load_tokenizer(folder)


@pytest.fixture
def rendered(tokenizer, monkeypatch):
    """A question, rendered by a template of this source."""

    def get(source):
        monkeypatch.setattr(tokenizer._tokenizer, "chat_template", source)
        return render(tokenizer, turns(["How?"]), generation_prompt=True)

    return get


def again(value, change):
    """A template that changes a value 60 times."""
    start = f"{{% set n = namespace(s={value}) %}}"
    return start + f"{{% for i in range(60) %}}{{% set n.s = {change} %}}{{% endfor %}}{{{{ n.s }}}}"


LARGE = {
    "a text times a number": "{{ 'a' * 2000000000 }}",
    "a number times a text": "{{ 2000000000 * 'a' }}",
    "a list times a number": "{{ ([0] * 2000000000) | length }}",
    "replacing": "{{ ('a' * 100000).replace('a', 'a' * 30000) }}",
    "the filter that replaces": "{{ ('a' * 100000) | replace('a', 'a' * 30000) }}",
    "replacing nothing": "{{ ('a' * 100000) | replace('', 'a' * 30000) }}",
    "doubling": again("'ab'", "n.s + n.s"),
    "joining twice": again("'ab'", "n.s ~ n.s"),
    "doubling a list": again("[1]", "n.s + n.s"),
    "squares": again("10", "n.s * n.s"),
    "printing": "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s }}{% endfor %}",
    "printing in a macro": "{% macro m(s) %}{% for i in range(9999) %}{{ s }}{% endfor %}{% endmacro %}"
    "{{ m(m('a')) }}",
    "a join": "{{ (['a' * 1000000] * 100000) | join('b') }}",
    "a join's mark": "{{ ('a' * 1000000).join(range(1000) | map('string')) }}",
    "a width": "{{ '%2000000000d' % 1 }}",
    "a width that is an argument": "{{ '%*d' % (2000000000, 1) }}",
    "a format's width": "{{ '{:2000000000}'.format(1) }}",
    "a format's width that is an argument": "{{ '{:{w}}'.format(1, w=2000000000) }}",
    "a format's filter": "{{ '%2000000000d' | format(1) }}",
    "a format's many places": "{{ ('{0}' * 100000).format('a' * 1000000) }}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "an indent": "{{ 'a\\nb' | indent(2000000000) }}",
    "an indent of JSON": "{{ {'a': [1, 2]} | tojson(indent=2000000000) }}",
    "a sum of lists": "{{ ([[0] * 1000000] * 100000) | sum(start=[]) | length }}",
}


@cases(LARGE)
def test_a_template_that_makes_gigabytes_is_stopped_before_it_does(case, rendered, tokenizer, quick):
    with pytest.raises(DpoError) as caught:
        rendered(case)
    assert_told(
        caught.value,
        tokenizer.name_or_path,
        f"{MOST:,} characters",
        "model.chat_template",
        "template-too-large",
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' | center(2000000000) }}",
        "{{ 'a' | attr('center')(2000000000) }}",
        "{{ ['a'] | map('center', 2000000000) | list }}",
        "{{ ''.rjust(2000000000) }}",
        "{{ (1).to_bytes(2000000000, 'big') }}",
        "{{ lipsum(100000) }}",
    ],
)
def test_what_makes_much_and_no_template_needs_is_not_there(source, rendered, quick):
    with pytest.raises(DpoError) as caught:
        rendered(source)
    assert caught.value.code == "template-refuses"


def test_what_templates_do_is_done_as_before(rendered):
    source = (
        "{{ 'a' ~ 1 ~ none ~ undefined }}|{{ ['b', 'c'] | join(', ') }}|{{ '%s-%02d' % ('d', 5) }}|"
        "{{ '{} {:>3}'.format('e', 'f') }}|{{ 'g\nh' | indent(2) }}|{{ 'ii'.replace('i', 'j') }}|"
        "{{ messages | map(attribute='content') | join('') }}|{{ messages | join('', attribute='role') }}|"
        "{{ [1, 2] + [3] }}|{{ 2 ** 10 * 3 % 7 }}|{{ {'k': ['é']} | tojson(indent=1) }}|{{ 'l' * 3 }}|"
        "{{ 'm n'.split() | reverse | list }}|{% set o %}{{ 'p' ~ 'q' }}{% endset %}{{ o | upper }}"
    )
    assert rendered(source) == (
        "a1None|b, c|d-05|e   f|g\n  h|jj|How?|user|[1, 2, 3]|6|"
        "{\n \"k\": [\n  \"é\"\n ]\n}|lll|['n', 'm']|PQ"
    )


SLOW = "{% for i in range(90000) %}{% for j in range(20) %}{% endfor %}{% endfor %}"


def test_the_time_of_a_template_is_that_of_all_renderings_of_a_row(tokenizer, monkeypatch):
    monkeypatch.setattr("mlx_dpo.data.chat_template._SECONDS", 1.0)
    source = (
        "{% if 'Slowly' in messages[0].content %}" + SLOW * 2 + "{% endif %}" + FAMILIES["qwen3"].template
    )
    monkeypatch.setattr(tokenizer._tokenizer, "chat_template", source)
    work = RowTokenizer(tokenizer, 256)
    row = {"prompt": turns(["Slowly?", "So.", "Why?"]), "chosen": "So.", "rejected": "No."}
    start = time.process_time()
    with pytest.raises(DpoError, match="did not finish within 1 s of CPU time"):
        work.pair(to_preference(row, WHERE))
    assert time.process_time() - start < 2
    row["prompt"][0]["content"] = "Quickly?"
    assert work.pair(to_preference(row, WHERE))


def test_a_row_of_thousands_of_turns_is_read(tokenizer):
    row = {"prompt": turns([f"turn {n}" for n in range(4001)]), "chosen": "So.", "rejected": "No."}
    assert RowTokenizer(tokenizer, 10**6).pair(to_preference(row, WHERE))
