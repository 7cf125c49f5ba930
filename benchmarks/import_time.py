"""What `import hf_face` costs, beside `import transformers`.

    python benchmarks/import_time.py [--rounds 10]

Every figure is a fresh process, less what Python itself takes to start. Every round runs all programs, one after the
other, so that a machine that slows down for a while slows all of them; the files were read once before.
"""

import argparse
import subprocess
import sys
import time
from statistics import median

PROGRAMS = {
    "python": "pass",
    "import transformers": "import transformers",
    "import hf_face": "import hf_face",
    "import transformers, hf_face": "import transformers, hf_face",
    "from transformers import AutoModel": "from transformers import AutoModel",
    "from hf_face import IResNetModel": "from hf_face import IResNetModel",
}


def seconds(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()

    for program in PROGRAMS.values():
        seconds(program)
    rounds = [{name: seconds(program) for name, program in PROGRAMS.items()} for _ in range(args.rounds)]
    print("| program | min, s | median, s |\n|---|---|---|")
    for name in list(PROGRAMS)[1:]:
        times = [times[name] - times["python"] for times in rounds]
        print(f"| `{name}` | {min(times):.2f} | {median(times):.2f} |")


if __name__ == "__main__":
    main()
