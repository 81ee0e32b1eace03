"""
Measures what importing costs, in CPU time of a fresh process, least of five:

    python examples/import_cost.py

The first number is `import sfrecsam_hf` as a share of `import torch` and `import transformers` together; the second
is `sfrecsam --help` beyond the start of the interpreter.
"""

import resource
import subprocess
import sys

HELP = "from sfrecsam_hf.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
MEASURED = {
    "interpreter": "",
    "torch": "import torch",
    "transformers": "import transformers",
    "torch and transformers": "import torch, transformers",
    "sfrecsam_hf": "import sfrecsam_hf",
    "sfrecsam_hf.SFRecSamModel": "from sfrecsam_hf import SFRecSamModel",
    "transformers.SamModel": "from transformers import SamModel",
    "sfrecsam --help": HELP,
}


def cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    seconds = {name: min(cpu_seconds(code) for _ in range(5)) for name, code in MEASURED.items()}
    for name, value in seconds.items():
        print(f"{name:28} {value:6.3f} s")
    ratio = seconds["sfrecsam_hf"] / seconds["torch and transformers"]
    print(f"import sfrecsam_hf / (torch and transformers): {ratio:.3f}")
    print(f"sfrecsam --help beyond the interpreter: {seconds['sfrecsam --help'] - seconds['interpreter']:.3f} s")


if __name__ == "__main__":
    main()
