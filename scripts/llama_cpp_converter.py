"""llama.cpp's own converters, which are on PyPI only inside the source package of llama-cpp-python."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "llama-cpp-python==0.3.36"
_WANTED = ("conversion/", "gguf-py/gguf/", "convert_hf_to_gguf.py", "convert_lora_to_gguf.py")
_RUN = """
import runpy, sys
folder, script, split, *arguments = sys.argv[1:]
sys.path[:0] = [folder, f"{folder}/gguf-py"]
if split:
    from conversion.base import TextModel
    TextModel.get_vocab_base_pre = lambda self, tokenizer: split
sys.argv = [script, *arguments]
runpy.run_path(f"{folder}/{script}", run_name="__main__")
"""


def converter_folder(cache: Path) -> Path:
    """The converters below `cache`; fetched (77 MB) where they are not there yet.

    Raises:
        RuntimeError: pip could not get the package; with pip's own last line.
    """
    folder = cache / f"converter-of-{PACKAGE.replace('==', '-')}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*pip, "--no-binary", ":all:", PACKAGE, "-d", work], capture_output=True, text=True
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise RuntimeError(f"pip could not get {PACKAGE}: {last}")
        with tarfile.open(next(work.glob("*.tar.gz"))) as archive:
            members = [
                one
                for one in archive.getmembers()
                if one.isfile() and one.name.partition("vendor/llama.cpp/")[2].startswith(_WANTED)
            ]
            archive.extractall(work, members, filter="data")
        shutil.move(next(work.glob("*/vendor/llama.cpp")), folder)
    return folder


def convert(converter: Path, model: Path, file: Path, split: str | None, type: str = "f32") -> Path:
    """Write a folder in the Hub's layout as a GGUF file, as llama.cpp's users do; returns the file.

    Args:
        split: llama.cpp's name of how text is split before merging, for a tiny tokenizer; None: the converter
            knows a published tokenizer by a hash of what it does with a text.

    Raises:
        RuntimeError: the converter failed; with its own last line.
    """
    arguments = [str(model), "--outfile", str(file), "--outtype", type]
    command = [sys.executable, "-c", _RUN, str(converter), "convert_hf_to_gguf.py", split or "", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise RuntimeError(f"llama.cpp's converter: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return file
