"""The whole of it on one machine: a data set, a small model trained on it, fine-tuned, evaluated, exported and asked.

    python examples/demo/demo.py            # files in demo-output/
    python examples/demo/demo.py --s3       # s3://demo/ of the S3 server that the AWS environment names

Run again after any interruption, it continues.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import bucket
import report
from answers import answer, held_out_questions
from prepare import FAST, FULL, prepare

HERE = Path(__file__).resolve().parent
PREPARED = ("data", "model")
STAGES = {"pretrain": "pretrained", "finetune": "adapter"}
"""Each stage's manifest, and the folder that it exports into."""


@dataclass(frozen=True)
class Place:
    """Where the demo keeps its files, and the bucket that the runs read from and write to, if they do."""

    folder: Path
    bucket: str | None

    def manifest(self, name: str) -> Path:
        """The stage's manifest as it is run: the example's, beside the files that its paths name, or with S3 paths."""
        text = (HERE / f"{name}.yaml").read_text(encoding="utf-8")
        if self.bucket is not None:
            text, name = text.replace("file://./", f"s3://{self.bucket}/"), f"{name}-s3"
        path = self.folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def output(self, name: str) -> Path:
        """What a run exported to `file://./<name>` or `s3://<bucket>/<name>`, as a local folder."""
        if self.bucket is None:
            return self.folder / name
        bucket.download(self.bucket, name, self.folder / "from-s3" / name)
        return self.folder / "from-s3" / name

    def environment(self) -> dict[str, str]:
        """Keeps logs, locks and caches of the runs here as well."""
        state = self.folder / ("state" if self.bucket is None else "state-s3")
        return os.environ | {"FINETUNE_STATE_DIR": str(state), "FINETUNE_WORKDIR": str(state / "work")}


def main() -> int:
    """Run every part and show what came out; returns the exit code of the run that failed, if one did."""
    arguments = _parse()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # no GPU is used here, and without it DeepSpeed warns of none
    console, started = Console(), time.monotonic()
    place = Place(arguments.output.resolve(), arguments.s3)
    place.folder.mkdir(parents=True, exist_ok=True)
    console.rule("1. data set, tokenizer and model, made here")
    _show_counts(console, prepare(place.folder, FAST if arguments.fast else FULL, console))
    if place.bucket is not None:
        for name in PREPARED:
            bucket.upload(place.folder / name, place.bucket, name)
    for number, (name, output) in enumerate(STAGES.items(), start=2):
        console.rule(f"{number}. {name}, into {output}")
        if exit_code := run(place, name, console):
            return exit_code
    console.rule("4. what came out")
    stages = [report.read(name, place.output(output)) for name, output in STAGES.items()]
    console.print(report.table(stages))
    _show_paths(console, place)
    questions = held_out_questions(place.folder / "data" / "chat" / "held-out.jsonl")
    for answered in answer(stages[0].folder, stages[1].folder, questions):
        console.print(report.side_by_side(answered))
    console.print(f"all of it took {time.monotonic() - started:.0f} s")
    return 0


def run(place: Place, name: str, console: Console) -> int:
    """`finetune run` on a stage's manifest, as a user would start it, with its own output; returns its exit code."""
    command = [str(Path(sysconfig.get_path("scripts")) / "finetune"), "run", _short(place.manifest(name))]
    console.print(Text(f"$ finetune {' '.join(command[1:])}", style="bold"))
    return ended(subprocess.Popen(command, env=place.environment()))


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for `process` and return its exit code; Ctrl-C reaches it too, and it may take its time to commit."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _show_counts(console: Console, counts: dict[str, int]) -> None:
    table = Table(show_header=False, box=None)
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    console.print(table)


def _show_paths(console: Console, place: Place) -> None:
    root = str(place.folder) if place.bucket is None else f"s3://{place.bucket}"
    paths = {
        "model": f"{root}/pretrained",
        "adapter": f"{root}/adapter",
        "their model cards": "README.md in both, with a plot of the losses; numbers in audit.json and metrics.jsonl",
        "checkpoints": f"{root}/checkpoints",
        "data set": f"{place.folder}/data",
    }
    table = Table(show_header=False, box=None)
    for name, path in paths.items():
        table.add_row(name, Text(path, overflow="fold"))
    console.print(table)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for everything it makes")
    parser.add_argument("--s3", nargs="?", const="demo", metavar="BUCKET", help="run over S3, in this bucket (demo)")
    parser.add_argument("--fast", action="store_true", help="a few steps of everything, to see that it works")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
