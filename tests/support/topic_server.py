"""A corpus and topics whose words say what they are about, and a scripted LLM that reads them."""

import json
import re
from collections import Counter

import numpy as np
from scipy.sparse import csr_matrix

from mlx_dpo.topics.corpus import Corpus

from .openai_server import Says

THEMES = ("car", "cat", "sun", "tax")
VOCABULARY = [f"{theme}{letter}" for theme in THEMES for letter in "abcdefghijklmnopqrstuvwx"]
"""24 words of each theme, sorted."""
CAR, CAT, SUN, TAX = np.arange(96).reshape(4, 24).tolist()


def corpus():
    """800 documents, each with five words of one theme."""
    draw = np.random.default_rng(0)
    bags, texts = np.zeros((800, len(VOCABULARY)), np.int32), []
    for row in range(800):
        words = sorted(draw.choice(24, 5, replace=False) + 24 * (row % 4))
        bags[row, words] = 1
        texts.append(" ".join(VOCABULARY[word] for word in words))
    return Corpus(csr_matrix(bags), VOCABULARY, texts)


def logits():
    """(4, 96): topic 0 is about cars, 1 about cats with four suns from rank 6 on, 2 about suns, 3 about all.

    Each topic has its own words; what is left belongs to all topics alike.
    """
    everything = [word for four in zip(CAR[20:], CAT[16:20], SUN[20:], TAX[:4], strict=True) for word in four]
    ranked = [CAR[:20], [*CAT[:6], *SUN[:4], *CAT[6:16]], SUN[4:20], everything]
    shares = np.full((4, 96), 0.25)
    for topic, words in enumerate(ranked):
        own = 0.9 - 0.01 * np.arange(len(words))
        shares[:, words] = (1 - own) / 3
        shares[topic, words] = own
    return np.log(shares).astype(np.float32)


def theme(word):
    """What a word is about."""
    return word[:3]


def function_of(body):
    """The function that a request wants called."""
    return re.search(r"Call the function (\w+)\.", body["messages"][0]["content"])[1]


def listed(body, name):
    """The JSON after a name in a request."""
    return json.loads(re.search(rf"^{name}: (.*)$", body["messages"][0]["content"], re.M)[1])


def reply(body):
    """The right arguments."""
    function, k = function_of(body), listed(body, "Topic")
    if function == "build_preferences":
        about = listed(body, "Description").split()[0]
        top, others = listed(body, "List A"), listed(body, "List B")
        win = [index for word, index in {**top, **others}.items() if theme(word) == about]
        lose = [index for word, index in top.items() if theme(word) != about]
        return {"k": k, "w_win_indices": win, "w_loose_indices": lose}
    counts = Counter(map(theme, listed(body, "Top words")))
    about, count = counts.most_common(1)[0]
    if function == "score_topic":
        share = count / counts.total()
        return {"k": k, "llm_score": 3 if share == 1 else 2 if share >= 0.5 else 1}
    taken = listed(body, "Other topics") if "Other topics:" in body["messages"][0]["content"] else []
    free = [name for name in THEMES if not any(name in text for text in taken)]
    return {"k": k, "main_meaning": f"{about if not taken else free[0]} things"}


def in_words(body):
    """The right reply as text, from a server without functions."""
    return Says(json.dumps(reply(body)))


def by_function(body):
    """The right reply as a function call."""
    return Says(None, call=json.dumps(reply(body)))
