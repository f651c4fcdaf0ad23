"""The main job on real images, end to end: what comes out, how long it takes, how it compares.

    python benchmarks/main_job.py digits clothing=PATH cifar10=PATH [--runs runs/benchmarks]

Each word is a data set, NAME or NAME=PATH; the settings it is built with stand below. Runs that are already
finished are reused, so the table can grow over several calls. Writes benchmarks/results/main_job.json with
the headline numbers of each run directory, hardware, versions, seed, n and split rule included.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pocketvit.core.files import read_json, write_json
from pocketvit.core.rundir import RunDirectory
from pocketvit.pipeline.build import build
from pocketvit.pipeline.config import BuildConfig

OUT = Path(__file__).parent / "results" / "main_job.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"macs": 30_000_000},
    "clothing": {"macs": 150_000_000},
    "cifar10": {"macs": 30_000_000, "limit": 10_000},
}


def main() -> None:
    """Build what was asked for and add its numbers to the result."""
    args = parse_arguments()
    results: dict[str, Any] = read_json(args.out) if args.out.exists() else {}
    for word in args.data:
        name, _, path = word.partition("=")
        config = BuildConfig(data=path or name, out=args.runs / name, **SETTINGS[name])
        results[name] = headline(build(config))
        write_json(args.out, results)


def headline(run: RunDirectory) -> dict[str, Any]:
    """The numbers of a finished run that people ask for."""
    record, data, model = run.read("run.json"), run.read("data.json"), run.read("model.json")
    training, evaluation, export = (run.read(f"{name}.json") for name in ("training", "evaluation", "export"))
    return {
        "model": model["name"],
        "resolution": model["resolution"],
        "macs": model["macs"],
        "params": model["params"],
        "recipe": training["recipe"]["name"],
        "pretrained": training["pretrained"]["used"],
        "epochs": training["epochs"],
        "training_seconds": training["seconds"],
        "images_per_second": training["images_per_second"],
        "data_wait_share": training["data_wait_share"],
        "job_seconds": round(sum(stage["seconds"] for stage in record["stages"].values()), 1),
        "n_train": data["n_train"],
        "n": evaluation["n"],
        "classes": len(data["classes"]),
        "split_rule": data["split_rule"],
        "seed": record["seed"],
        "top1": evaluation["top1"],
        "interval": evaluation["interval"],
        "verification": export["verification"],
        "file_bytes": export["bytes"],
        "benchmark": run.read("benchmark.json")["rows"],
        "hardware": record["hardware"],
        "versions": record["versions"],
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="+", metavar="NAME[=PATH]", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
