"""Settings that nobody would write: YAML texts and `--set` strings, the same ones for the same seed."""

import random
from collections.abc import Iterator
from dataclasses import fields

from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.settings import as_plain, described, to_yaml
from mlx_dpo.suggestions import known_names

NAMES = [name for name, *_ in described(RunConfig)]
SECTIONS = [f.name for f in fields(RunConfig)]
FOREIGN = sorted({word for k in known_names(RunConfig) for word in k.also})
WHOLE = as_plain(load_config(None))


def _words(text: str) -> list[str]:
    return text.split()


NUMBERS = _words("""
    0 -1 1 2 1.5 -0.0 1e-320 1e308 -1e308 1e400 nan .nan inf -.inf 1_000 0x_ 0b_ 0o7 07 0x10 1:30 1:99.5 1e-6
    18446744073709551615 18446744073709551616 9223372036854775808 -9223372036854775809 1e-400 8 0.5 0.01
    1000000000000000000000000000000 +1 1. .5 1,5 0x1p3 1e 1d5 ½ ٣
""")
WORDS = _words("""
    null ~ Null true false yes no on off Yes = << * & ! !! - ? : , [] {} "" '' [ ] { } [[]] {a: *a &a &a1 % @
    ` 2024-13-45 2024-02-30 2024-01-01 2001-12-14t21:59:43.10-05:00 dpo grpo kto sigmoid lora qlora adamw
    auto ~nosuchuser/x ../.. . / // org/model <<: !!bool !!int !!float !!timestamp !!binary !!null !!set
    !!omap !!pairs !!str !!map !!seq !!python/object/apply:os.system !x --- ... #c
""")
CHARACTERS = [
    *map(chr, range(32)),
    *" :,[]{}#&*!|>'\"%@`-?=~\\/.\x7f\x85\u2028\ufeff\ufffeé½\U0001f642\ud83d\udcff",
]


def values(chance: random.Random) -> str:
    """What might be written as a value."""
    kind = chance.randrange(20)
    one = chance.choice([*NUMBERS, *WORDS])
    if kind < 3 or kind > 14:
        return one
    if kind < 5:
        return str(round(10 ** chance.uniform(-3, 3), 3))
    if kind == 11:
        return f"{chance.choice(WORDS)} {one}"
    if kind == 5:
        return "".join(chance.choices(CHARACTERS, k=chance.randrange(1, 12)))
    if kind == 6:
        return chance.choice("xé9-[{(.:_\ud83d") * chance.choice([3, 3, 300, 300, 5_000, 60_000])
    if kind == 7:
        return "[" + ", ".join(chance.choices([*NUMBERS, *WORDS], k=chance.randrange(9))) + "]"
    if kind == 8:
        return "{" + ", ".join(f"{chance.choice(WORDS)}: {one}" for _ in range(3)) + "}"
    if kind == 9:
        return chance.choice(["0x", "0b", "", "-", "0"]) + chance.choice("1f") * chance.choice([20, 5_000])
    if kind == 10:
        return chance.choice("\"'") + one + chance.choice(['"', "'", "", '\\ud800"', '\\U7FFFFFFF"', '\\0"'])
    return chance.choice(["[", "{a: ", "- ", "? ", "!!seq ["]) * chance.choice([3, 12, 2_000])


def names(chance: random.Random) -> str:
    """What might be written as a dotted name."""
    kind, name = chance.randrange(10), chance.choice(NAMES)
    if kind < 5:
        return name
    if kind == 5:
        return chance.choice([*FOREIGN, f"{chance.choice(SECTIONS)}.{chance.choice(FOREIGN)}"])
    if kind == 6:
        place = chance.randrange(len(name))
        return name[:place] + chance.choice(CHARACTERS) + name[place + 1 :]
    if kind == 7:
        return ".".join(chance.choices([*SECTIONS, "", "x"], k=chance.choice([1, 2, 5, 1_500])))
    return chance.choice([*SECTIONS, f"{name}.x", name.upper(), values(chance)])


def assignments(seed: int, count: int) -> Iterator[list[str]]:
    """Lists of one or two `--set` strings."""
    chance = random.Random(seed)
    for _ in range(count):
        pairs = chance.choice([1, 1, 1, 2])
        yield [names(chance) + chance.choice("=====:") + values(chance) for _ in range(pairs)]


def bomb(chance: random.Random) -> str:
    """Aliases of aliases, as lists or merged sections."""
    fan, depth = chance.randrange(2, 12), chance.randrange(2, 30)
    merged = chance.random() < 0.5
    lines = ["a0: &a0 {x: 1}" if merged else "a0: &a0 [x, x]"]
    for level in range(1, depth):
        inner = ", ".join([f"*a{level - 1}"] * fan)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{inner}]}}" if merged else f"[{inner}]"))
    return "\n".join(chance.choice([lines, [f"data: {{train: *a{depth - 1}}}", *lines], lines[::-1]]))


def mutated(chance: random.Random) -> str:
    """Some sections as `mlx-dpo config` writes them, with some places overwritten."""
    text = "\n".join(to_yaml({section: WHOLE[section]}) for section in chance.sample(SECTIONS, 2))
    for _ in range(chance.choice([0, 1, 1, 2, 8])):
        place = chance.randrange(len(text))
        end = place + chance.choice([0, 0, 1, 2, 10, 100])
        text = text[:place] + chance.choice([*CHARACTERS, *NUMBERS, *WORDS, values(chance)]) + text[end:]
    return text


def nested(chance: random.Random) -> str:
    """A few settings in their sections, each with some value."""
    lines = []
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        *sections, key = names(chance).split(".")[:6]
        lines += [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
        lines.append(f"{'  ' * len(sections)}{key}: {values(chance)}")
    return "\n".join(lines)


def texts(seed: int, count: int) -> Iterator[bytes]:
    """Contents of settings files."""
    chance = random.Random(seed)
    for _ in range(count):
        text = chance.choice([mutated, mutated, nested, nested, nested, values, bomb])(chance)
        content = text.encode(chance.choice(["utf-8"] * 12 + ["utf-16", "utf-8-sig"]), "surrogatepass")
        if chance.random() < 0.05:
            place = chance.randrange(len(content) or 1)
            content = content[:place] + chance.randbytes(2) + content[place + 1 :]
        yield content
