"""Run the benchmarks of speed, one script a claim, and compare what they give with what is on record.

Each claim runs in a process of its own. What moved by more than 15 % against the last record is named, better or
worse; with `--record` the new rows take the place of the old ones and the tables of docs/benchmarks.md are written
anew from all of them. Ends with 1 where a ratio became worse.

    python benchmarks/bench.py [CLAIM ...] [--record] [--list]
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import growth_figure
import results

HERE = Path(__file__).parent
CLAIMS = ("step", "one_price", "stream", "train", "ar", "walkforward", "windows", "memory", "startup", "growth")
"""Scripts in the order in which they run; each takes `--json FILE`."""


def claims(rows: list[results.Row], names: list[str]) -> int:
    """Run claims in turn; give how many did not end well."""
    failed = 0
    for name in names:
        print(f"== {name}: {summary(name)}", flush=True)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="statecast-bench-") as folder:
            file = Path(folder) / "rows.jsonl"
            done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--json", str(file)], check=False)
            rows += results.read(file)
        print(f"== {name}: {time.perf_counter() - began:.0f} s, ended with {done.returncode}", flush=True)
        failed += done.returncode != 0
    return failed


def summary(name: str) -> str:
    """Read the first line of what a script says about itself."""
    return (ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or "").partition("\n")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=f"some of {', '.join(CLAIMS)}; left out: all")
    parser.add_argument("--record", action="store_true", help="keep the rows, and write the tables of the documents")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="files of rows measured before, to be kept too")
    parser.add_argument("--list", action="store_true", help="say what the claims are, and run nothing")
    options = parser.parse_args()
    if unknown := set(options.claims) - set(CLAIMS):
        parser.error(f"expected some of {', '.join(CLAIMS)}; got {', '.join(sorted(unknown))}")
    if options.list:
        print("\n".join(f"{name:12} {summary(name)}" for name in CLAIMS))
        return
    rows = [row for path in options.add for row in results.read(path)]
    names = options.claims or ([] if options.add else list(CLAIMS))
    failed = claims(rows, names)
    worse, better = results.moved(results.on_record(), rows)
    for title, lines in (("worse than on record", worse), ("better than on record", better)):
        print("\n".join([f"{title}:", *(f"  {line}" for line in lines)] if lines else [f"{title}: none"]))
    if options.record:
        results.keep(rows)
        growth_figure.draw(results.of("growth"))
        text = results.DOCUMENT.read_text(encoding="utf-8")
        results.DOCUMENT.write_text(results.document(text, results.on_record()), encoding="utf-8")
        print(f"{len(rows)} rows kept, the tables of {results.DOCUMENT.name} written")
    sys.exit(1 if worse or failed else 0)


if __name__ == "__main__":
    main()
