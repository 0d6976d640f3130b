# SPDX-License-Identifier: BSD-3-Clause
"""Train one network on real handwritten digits twice: with torch's loss, then with ours.

Both copies start with the same weights and see the same batches in the same order, so the two
trainings must be the same but for rounding. That is checked, and drawn in a picture.
"""

import argparse
import copy
import math
import sys
import time
from pathlib import Path
from statistics import mean, median

import fused_ce
import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

BATCH = 64
CALLS = 6  # of the loss in a step: the first does the work and warms the caches, others are timed
# How far may rounding pull the two trainings apart? A float32 logit of size x carries eps * x, and
# so, relatively, does the gradient: 20 eps here. Descent turns that, step by step, into the same
# part of the fall of the loss, ln 10; curvature makes early differences grow: allow ten times.
# A lost row or a wrong sign misses this thousands of times over, a loss 0.01 % too large four.
BOUND = 10 * 20 * torch.finfo(torch.float32).eps * math.log(10)


class Training:
    """A network, its loss, and a diary."""

    def __init__(self, name: str, network: nn.Module, criterion: nn.Module) -> None:
        self.name, self.network, self.criterion = name, copy.deepcopy(network), criterion
        parameters = self.network.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True)
        self.losses: list[list[float]] = []  # an epoch, a step
        self.accuracy: list[float] = []  # on the test digits, after each epoch
        self.microseconds: list[float] = []  # that a call of the loss took, forward and backward

    def step(self, images: Tensor, labels: Tensor) -> None:
        logits = self.network(images)
        cut = logits.detach().requires_grad_()  # so that the clock sees the loss, not the network
        for call in range(CALLS):
            cut.grad = None
            start = time.perf_counter()
            loss = self.criterion(cut, labels)
            loss.backward()
            if call:
                self.microseconds.append(1e6 * (time.perf_counter() - start))
        self.optimizer.zero_grad()
        logits.backward(cut.grad)
        self.optimizer.step()
        self.losses[-1].append(loss.item())


def draw(path: Path, runs: list[Training], images: Tensor, labels: Tensor) -> None:
    """Draw both trainings, the time of the loss, and test digits as our network reads them."""
    mpl.use("Agg")
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("axes", titleweight="bold")
    figure = plt.figure(figsize=(12, 7.6), layout="constrained", dpi=150)
    grid = figure.add_gridspec(2, height_ratios=(1.25, 1), hspace=0.06)
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    loss, accuracy, cost = above.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
    colours = ("#56b4e9", "#d55e00")  # Okabe and Ito: told apart by colour-blind eyes
    for run, colour, width in zip(runs, colours, (6, 1.5), strict=True):
        epochs = range(1, len(run.losses) + 1)
        loss.semilogy(epochs, [mean(e) for e in run.losses], color=colour, lw=width)
        percent = [100 * a for a in run.accuracy]
        accuracy.plot(epochs, percent, color=colour, lw=width, label=run.name)
    loss.set(title="Training loss", xlabel="epoch", ylabel="mean cross entropy of an epoch")
    accuracy.set(title="Test accuracy", xlabel="epoch", ylabel="digits read correctly (%)")
    accuracy.legend(loc="lower right", frameon=False)
    names, times = ["torch.nn", "fused_ce"], [median(run.microseconds) for run in runs]
    cost.bar_label(cost.bar(names, times, 0.5, color=colours), fmt="%.1f µs", padding=4)
    cost.set(
        ylim=(0, 1.12 * max(times)),
        title="Time of a call of the loss",
        ylabel="forward + backward, median (µs)",
    )
    cost.set_xlabel(f"{BATCH} x 10 logits, 1 thread, {len(runs[0].microseconds)} warm calls each")

    with torch.no_grad():
        logits = runs[1].network(images)
    read = logits.argmax(1)
    # The loss is -log p of the class asked for, so exp(-loss) is the confidence in it.
    confidence = torch.exp(-fused_ce.cross_entropy(logits, read, reduction="none"))
    shown = [*range(10), *confidence.argsort()[:10].tolist()]
    title = "Ten test digits at random, and the ten it is least sure of (orange: misread)"
    below.suptitle(title, weight="bold")
    for axes, i in zip(below.subplots(2, 10).flat, shown, strict=True):
        axes.imshow(images[i, 0], cmap="gray_r", interpolation="bilinear")
        axes.set(xticks=[], yticks=[], frame_on=False)
        right = read[i] == labels[i]
        text = f"{read[i]}, {confidence[i]:.1%}" + ("" if right else f"\nis {labels[i]}")
        axes.set_xlabel(text, color="black" if right else colours[1])
    figure.savefig(path, bbox_inches="tight", pad_inches=0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on digits with torch's loss and with ours.")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".png"))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so small a network gains nothing from more, and the clock loses

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target, dtype=torch.int64)
    parts = train_test_split(images, labels, stratify=labels, random_state=args.seed)
    images, test_images, labels, test_labels = parts
    layers = [nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10)]
    network = nn.Sequential(nn.Flatten(), *layers)
    theirs = Training("torch.nn.CrossEntropyLoss", network, nn.CrossEntropyLoss())
    ours = Training("fused_ce.CrossEntropyLoss", network, fused_ce.CrossEntropyLoss())
    runs, largest = [theirs, ours], torch.zeros(())
    table = Table(
        "epoch", "torch: loss", "fused_ce: loss", "differ by", "torch: test", "fused_ce: test"
    )
    for epoch in track(range(args.epochs), "training both", disable=not sys.stdout.isatty()):
        for run in runs:
            run.losses.append([])
        for number, rows in enumerate(torch.split(torch.randperm(len(images)), BATCH)):
            for run in runs if number % 2 else reversed(runs):  # neither is always the first
                run.step(images[rows], labels[rows])
        for run in runs:
            with torch.no_grad():
                right = run.network(test_images).argmax(1) == test_labels
            run.accuracy.append(right.float().mean().item())
        worst = (torch.tensor(theirs.losses[-1]) - torch.tensor(ours.losses[-1])).abs().max()
        largest = torch.maximum(largest, worst)  # of all steps; keeps a NaN
        means = (f"{mean(run.losses[-1]):.7f}" for run in runs)
        read = (f"{run.accuracy[-1]:.2%}" for run in runs)
        table.add_row(f"{epoch + 1}", *means, f"{worst:.1e}", *read)
    Console().print(table)
    for run in runs:
        print(f"{run.name} forward + backward, median: {median(run.microseconds):.1f} µs")
    draw(args.picture, runs, test_images, test_labels)
    print(f"picture: {args.picture}")
    print(f"largest difference of a loss, all steps: {largest:.1e}; rounding allows {BOUND:.1e}")
    if not largest <= BOUND:
        raise SystemExit("the two trainings disagree beyond rounding")


if __name__ == "__main__":
    main()
