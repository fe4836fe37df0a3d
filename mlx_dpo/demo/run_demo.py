"""Every step from start to end, offline: base model, pairs, training, evaluation, fused model."""

import time
from dataclasses import replace
from pathlib import Path

from ..config import RunConfig, load_config
from ..console import plural, say, show
from ..data.conversation_tokens import prompt_tokens
from ..data.sources import read_curated
from ..errors import DpoError
from ..evaluation.preference import Evaluation
from ..export.fuse import fuse_run
from ..jobs.evaluate import evaluate_run
from ..jobs.gen_pairs import generate_pairs
from ..jobs.train import train_run
from ..models.adapters import load_adapter
from ..models.generate import generate_answers
from ..models.load import load_model, load_tokenizer
from ..printed_commands import command_line
from ..records import Curated
from .base_model import teach
from .demo_folder import activation, empty_folder, from_here, shipped
from .tiny_models import make_model

_EPOCHS = 14
_SHOWN = 4
_PARTS = ("base", "pairs", "run", "fused")


def tell(output: str, beta_rule: str | None = None, *, overwrite: bool = False) -> None:
    """Run all steps in folder `output`, and print a table of results and the list of folders.

    Raises:
        DpoError: the folder contains a demo already, or adapter and fused model answer differently.
    """
    start, folder = time.monotonic(), Path(output)
    config = demo_config(folder, beta_rule)
    empty_folder(folder, _PARTS, overwrite)

    say("1/5 base model: a tiny Granite hybrid learns to answer plainly")
    make_base(folder / "base", _EPOCHS)
    say("2/5 pairs: curated answers are chosen, sampled answers of the base model are rejected")
    counts = generate_pairs(config)
    say(str(counts))
    say("3/5 training: DPO with an adapter; the reference is the frozen base model")
    train_run(config)
    say("4/5 evaluation on held-out questions")
    result = evaluate_run(config.run.output, samples=0)
    say("5/5 fusing the adapter into the weights")
    fuse_run(config.model.path, config.run.output, folder / "fused", config.model)

    held_out = read_curated(config.pairs.valid_source or "")
    answers = answer_all(config, folder / "fused", held_out)
    show(story_text(folder, result, held_out, answers, time.monotonic() - start))
    if answers["adapter"] != answers["fused"]:
        raise DpoError("adapter and fused model answer differently", where=folder / "fused")


def demo_config(folder: Path, beta_rule: str | None = None) -> RunConfig:
    """config/demo.yaml with this demo's paths and, if given, another beta rule."""
    return load_config(
        shipped("config/demo.yaml"),
        [
            f"model.path={folder / 'base'}",
            f"pairs.source={shipped('data/curated.jsonl')}",
            f"pairs.valid_source={shipped('data/heldout.jsonl')}",
            f"pairs.output={folder / 'pairs'}",
            f"data.train={folder / 'pairs' / 'train.jsonl'}",
            f"data.valid={folder / 'pairs' / 'valid.jsonl'}",
            f"run.output={folder / 'run'}",
            *([f"beta.rule={beta_rule}"] if beta_rule else []),
        ],
    )


def make_base(folder: Path, epochs: int) -> None:
    """A tiny Granite hybrid of 0.8 million parameters, taught on data/base.jsonl."""
    rows = read_curated(shipped("data/base.jsonl"))
    texts = [f"{row.prompt[-1]['content']} {row.answer}" for row in rows]
    make_model(folder, "granite", texts, hidden=128, layers=4, vocab=900)
    teach(folder, rows, epochs)


def answer_all(config: RunConfig, fused: Path, rows: list[Curated]) -> dict[str, list[str]]:
    """Greedy answers of base, adapter and fused model to the same questions."""
    tokenizer = load_tokenizer(Path(config.model.path))
    prompts = [prompt_tokens(tokenizer, row.prompt) for row in rows]
    greedy = replace(config.generate, temperature=0.0)

    def answers(model) -> list[str]:
        return [a.text for a in sorted(generate_answers(model, tokenizer, prompts, greedy))]

    base, _ = load_model(Path(config.model.path))
    told = {"base": answers(base)}
    load_adapter(base, config.run.output)
    told["adapter"] = answers(base)
    told["fused"] = answers(load_model(fused)[0])
    return told


def in_house_style(answer: str) -> bool:
    """Whether an answer has the form of the curated ones: greeting, two steps, one closing sentence."""
    if not answer.startswith("Gladly! First, ") or not answer.endswith("."):
        return False
    return answer.count(". Then, ") == 1 and answer.split(". Then, ")[1].count(". ") == 1


def story_text(
    folder: Path,
    result: Evaluation,
    rows: list[Curated],
    answers: dict[str, list[str]],
    seconds: float,
) -> str:
    """The demo's last page."""
    n, m = len(rows), result.metrics
    style = {name: sum(map(in_house_style, told)) for name, told in answers.items()}
    right = {
        name: sum(a == row.answer for a, row in zip(told, rows, strict=True))
        for name, told in answers.items()
    }
    low, high = result.accuracy_interval
    step = n // _SHOWN + 1
    lines = [
        "",
        f"Held-out: {plural(result.pairs, 'pair')}, {plural(n, 'question')}".ljust(44) + "base    tuned",
        f"  preference accuracy (against the base)      -  {m['rewards/accuracies']:7.3f}"
        f"   95 % interval {low:.3f} to {high:.3f}",
        f"  chosen answer more likely than rejected {result.preferred_base:.3f}"
        f"  {result.preferred_tuned:7.3f}",
        f"  answers in the house style            {style['base']:3d}/{n}  {style['adapter']:4d}/{n}",
        f"  the curated answer, word for word     {right['base']:3d}/{n}  {right['adapter']:4d}/{n}",
        f"  adapter and fused model answer alike         {_same(answers)}/{n}",
    ]
    for i in range(0, n, step):
        lines += ["", f"Q        {rows[i].prompt[-1]['content']}"]
        lines += [f"{name:<8} {told[i]}" for name, told in answers.items()]
    return "\n".join([*lines, "", *_whereabouts(folder, seconds)])


def _same(answers: dict[str, list[str]]) -> int:
    return sum(a == f for a, f in zip(answers["adapter"], answers["fused"], strict=True))


def _whereabouts(folder: Path, seconds: float) -> list[str]:
    ask = ["python", "-m", "mlx_lm", "generate", "--model", str(folder / "base")]
    ask += ["--adapter-path", str(folder / "run"), "--prompt", "How do I clean a copper kettle?"]
    settings, rows = (from_here(shipped(name)) for name in ("config/granite_dpo.yaml", "data/curated.jsonl"))
    config = ["--config", settings]
    same = [
        ["gen-pairs", *config, "--source", rows, "--limit", "100"],
        ["train", *config],
        ["eval", "--run", "runs/granite-dpo"],
        ["fuse", "--run", "runs/granite-dpo", "--output", "models/granite-dpo"],
    ]
    return [
        f"Done in {seconds:.0f} s. All results are in {folder}:",
        "  base/   the base model      pairs/  train.jsonl, valid.jsonl",
        "  run/    adapter, metrics    fused/  the tuned model, ready for mlx_lm",
        "",
        *activation(),
        "Ask it something else:",
        f"  {command_line(ask)}",
        "",
        "The same with Granite 4.0 H-Micro; --source can name your own JSONL file of prompt and answer:",
        *(f"  {command_line(['mlx-dpo', *words])}" for words in same),
    ]
