"""
Measures what importing costs, in CPU time of a fresh process, least of five (or of as many as you say):

    python examples/import_cost.py
    python examples/import_cost.py 20

`import sfrecsam_hf` is compared with `import torch, transformers`, and `sfrecsam --help` with the bare interpreter.
"""

import resource
import subprocess
import sys

MEASURED = {
    "interpreter": "",
    "import torch": "import torch",
    "import transformers": "import transformers",
    "import torch, transformers": "import torch, transformers",
    "import sfrecsam_hf": "import sfrecsam_hf",
    "sfrecsam --help": "from sfrecsam_hf.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
}


def cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(repeats: int) -> None:
    seconds = {name: min(cpu_seconds(code) for _ in range(repeats)) for name, code in MEASURED.items()}
    for name, value in seconds.items():
        print(f"{name:28} {value:6.3f} s")
    ratio = seconds["import sfrecsam_hf"] / seconds["import torch, transformers"]
    print(f"import sfrecsam_hf takes {ratio:.3f} of import torch, transformers")
    print(f"sfrecsam --help takes {seconds['sfrecsam --help'] - seconds['interpreter']:.3f} s beyond the interpreter")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5)
