"""Training speed beside timm: the same network, weights, images and step, in our code and in timm's.

    python benchmarks/training_throughput.py [--device cpu] [--batch-size 32] [--rounds 9] [--threads 2]
    python benchmarks/training_throughput.py --device cuda --precision bfloat16 --compile --size 224 [...]

Both networks of a pair start from the same weights and take turns, round by round in alternating order, so
that a drifting machine is fair to both; what is compared is the ratio of the medians. The step is the one of
the training loop. With `--compile` every network is measured once more through torch.compile, whose work is
done before the clock starts. Where a batch does not fit into the GPU, both networks of the pair get half of
it, and so on; the row says how many images it was. CAS-ViT, which timm lacks, and MobileNetV3 stand alone. At
the end an epoch of training on
synthetic photos, augmentation included, shows which share of the time a step waits for images. Writes
benchmarks/results/training_throughput.json; on a GPU, training_throughput_cuda.json.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from pocketvit.backbones import create_model, get_entry
from pocketvit.core.files import write_json
from pocketvit.core.machine import choose_device, hardware, versions
from pocketvit.data import ImageData
from pocketvit.data.splits import MemorySplit
from pocketvit.tasks import ClassificationTask
from pocketvit.training import Recipe
from pocketvit.training.batches import make_batches
from pocketvit.training.optimizer import make_optimizer
from pocketvit.training.precision import MixedPrecision, resolve_precision
from pocketvit.training.step import train_step

OUT = Path(__file__).parent / "results"
PAIRS = ("mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs")
ALONE = ("cas_vit_xs", "timm/mobilenetv3_large_100")
CLASSES = 10
WARM_UP = 3
SAME = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-3}
"""Largest difference of the first loss, relative, for two implementations to count as the same network.

The half precisions round every activation, to 8 and to 11 bits.
"""


Row = dict[str, Any]


@dataclass
class Contestant:
    """A network with its own optimizer, and the seconds of its timed steps."""

    name: str
    step: Callable[[], float | None]
    seconds: list[float] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> None:
    """Measure everything and write the result."""
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    torch.backends.cudnn.benchmark = True  # sizes stay: the fastest algorithm is worth looking for
    cases = [(compare, name) for name in args.pairs] + [(run_alone, name) for name in args.alone]
    rows = [row for case in cases for mode in modes(args) for row in measure(*case, mode, args, device)]
    result = {
        "what": "one training step: forward, backward, clip, AdamW; images are in memory",
        "protocol": {
            "device": str(device),
            "precision": resolve_precision(args.precision, device),
            "channels_last": True,
            "batch_size": args.batch_size,
            "size": args.size,
            "threads": args.threads,
            "rounds": args.rounds,
            "steps_per_round": args.steps,
            "warm_up_steps": WARM_UP,
            "interleaved": True,
            "seed": args.seed,
        },
        "rows": rows,
        "data_wait": data_wait(args, device) if args.images else None,
        "hardware": hardware(),
        "versions": versions(),
    }
    write_json(
        args.out or OUT / f"training_throughput{'_cuda' if device.type == 'cuda' else ''}.json", result
    )
    print(json.dumps(rows, indent=1))
    print(json.dumps(result["data_wait"], indent=1))


def modes(args: argparse.Namespace) -> list[str]:
    """How to run each network."""
    return ["eager", "compile"] if args.compile else ["eager"]


def measure(
    case: Callable[..., list[Row]], name: str, mode: str, args: argparse.Namespace, device: torch.device
) -> list[Row]:
    """The rows of a case, with the largest batch of `--batch-size` and its halves that fits."""
    rows = within_memory(lambda size: case(name, mode, size, args, device), args.batch_size)
    torch.compiler.reset()
    for row in rows:
        print(row, flush=True)
    return rows


def within_memory(attempt: Callable[[int], list[Row]], batch_size: int) -> list[Row]:
    """What `attempt` returns for this batch size, or half of it, and so on, until it fits into the GPU."""
    while True:
        try:
            return attempt(batch_size)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        torch.cuda.empty_cache()  # not while the exception holds on to its tensors
        batch_size //= 2


def compare(
    name: str, mode: str, batch_size: int, args: argparse.Namespace, device: torch.device
) -> list[Row]:
    """Ours and timm's with the same weights, in turn."""
    torch.manual_seed(args.seed)
    ours = create_model(name, num_classes=CLASSES)
    theirs = timm.create_model(name, num_classes=CLASSES)
    theirs.load_state_dict(ours.state_dict())
    contestants = [
        contestant("pocketvit", ours, mode, batch_size, args, device),
        contestant("timm", theirs, mode, batch_size, args, device),
    ]
    first = [one.step() for one in contestants]
    if None in first or abs(first[0] / first[1] - 1) > SAME[resolve_precision(args.precision, device)]:
        raise SystemExit(f"{name}: the first losses differ: {first}")
    take_turns(contestants, args)
    rows = [row_of(name, one, mode, batch_size) for one in contestants]
    rows[0]["times_timm"] = round(rows[1]["p50_ms"] / rows[0]["p50_ms"], 3)
    return rows


def run_alone(
    name: str, mode: str, batch_size: int, args: argparse.Namespace, device: torch.device
) -> list[Row]:
    """A network that has no counterpart."""
    torch.manual_seed(args.seed)
    side = "timm" if name.startswith("timm/") else "pocketvit"
    one = contestant(side, create_model(name, num_classes=CLASSES), mode, batch_size, args, device)
    take_turns([one], args)
    return [row_of(name.removeprefix("timm/"), one, mode, batch_size)]


def contestant(
    name: str, model: nn.Module, mode: str, batch_size: int, args: argparse.Namespace, device: torch.device
) -> Contestant:
    """A step of `model` on one fixed batch."""
    recipe = Recipe()
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, recipe)
    precision = MixedPrecision(name=resolve_precision(args.precision, device), device=device)
    loss = ClassificationTask(classes=[str(i) for i in range(CLASSES)]).loss
    images, targets = batch(batch_size, args, device)
    network = torch.compile(model) if mode == "compile" else model

    def step() -> float | None:
        return train_step(
            network, optimizer, loss, images, targets, precision=precision, clip_grad=recipe.clip_grad
        )  # ends in .item(), which waits for the device

    return Contestant(name, step)


def batch(batch_size: int, args: argparse.Namespace, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, S, S) and class indices (B,)."""
    generator = torch.Generator().manual_seed(args.seed)
    images = torch.randn(batch_size, 3, args.size, args.size, generator=generator)
    targets = torch.randint(CLASSES, (batch_size,), generator=generator)
    return images.to(device, memory_format=torch.channels_last), targets.to(device)


def take_turns(contestants: list[Contestant], args: argparse.Namespace) -> None:
    """Time `rounds` × `steps` steps of each; every second round goes backwards."""
    for one in contestants:
        for _ in range(WARM_UP):
            one.step()
    for turn in range(args.rounds):
        for one in contestants if turn % 2 == 0 else reversed(contestants):
            for _ in range(args.steps):
                began = time.perf_counter()
                if one.step() is None:
                    raise SystemExit(f"{one.name}: the loss is not finite")
                one.seconds.append(time.perf_counter() - began)


def row_of(name: str, one: Contestant, mode: str, batch_size: int) -> Row:
    """Median, spread and images per second."""
    median = statistics.median(one.seconds)
    return {
        "model": name,
        "implementation": one.name,
        "mode": mode,
        "batch_size": batch_size,
        "n": len(one.seconds),
        "p50_ms": round(median * 1e3, 2),
        "p90_ms": round(float(np.quantile(one.seconds, 0.9)) * 1e3, 2),
        "min_ms": round(min(one.seconds) * 1e3, 2),
        "images_per_second": round(batch_size / median, 1),
    }


def data_wait(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The share of an epoch that is waiting for images, with the default recipe's augmentation."""
    recipe = Recipe(batch_size=args.batch_size, seed=args.seed)
    name = args.pairs[0]
    pre = get_entry(name).preprocessing.at(args.size)
    batches, _ = make_batches(synthetic_photos(args), pre, recipe, device)
    torch.manual_seed(args.seed)
    model = create_model(name, num_classes=CLASSES).to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, recipe)
    precision = MixedPrecision(name=resolve_precision(args.precision, device), device=device)
    loss = ClassificationTask(classes=[str(i) for i in range(CLASSES)]).loss
    waits, total, images_seen = 0.0, 0.0, 0
    for epoch in range(2):  # the first one warms up
        waits, images_seen, began = 0.0, 0, time.perf_counter()
        batches.set_epoch(epoch)
        asked = began
        for images, labels, _ in batches:
            waits += time.perf_counter() - asked
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            train_step(model, optimizer, loss, images, labels.to(device), precision=precision, clip_grad=1.0)
            images_seen += len(labels)
            asked = time.perf_counter()
        total = time.perf_counter() - began
    return {
        "model": name,
        "images": images_seen,
        "picture": f"synthetic JPEG {args.picture} px, decoded once and cached",
        "augmentation": recipe.augmentation.model_dump(mode="json"),
        "images_per_second": round(images_seen / total, 1),
        "data_wait_share": round(waits / total, 4),
    }


def synthetic_photos(args: argparse.Namespace) -> ImageData:
    """Smooth random pictures as JPEG bytes; their content does not matter for speed, their size does."""
    rng = np.random.default_rng(args.seed)

    def split(n: int) -> MemorySplit:
        contents: list[bytes] = []
        for _ in range(n):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            coarse.resize((args.picture * 4 // 3, args.picture), Image.Resampling.BICUBIC).save(
                buffer, "JPEG"
            )
            contents.append(buffer.getvalue())
        return MemorySplit([str(i) for i in range(n)], contents, [i % CLASSES for i in range(n)])

    return ImageData(
        name="synthetic",
        source="random",
        classes=tuple(str(i) for i in range(CLASSES)),
        train=split(args.images),
        val=split(CLASSES),
        split_rule="random",
        problems=(),
        checked=args.images + CLASSES,
        fingerprint=f"seed {args.seed}",
        typical_size=args.picture,
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--precision", default="auto", choices=["auto", *SAME])
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS), help="models that timm has too")
    parser.add_argument("--alone", nargs="*", default=list(ALONE))
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a network's turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--images", type=int, default=256, help="synthetic photos of the data-wait part; 0: none"
    )
    parser.add_argument("--picture", type=int, default=480, help="their short side, pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
