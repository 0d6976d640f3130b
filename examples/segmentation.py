# SPDX-License-Identifier: BSD-3-Clause
"""Segment the back of an eye twice: with torch's loss, then with ours.

The photograph is one that scikit-image ships. Classical filters label its vessels (dark ridges)
and its optic disc (bright, where the nerve leaves). Where they are not sure, along the borders, and
outside of the eye, the label is IGNORED. A small convolutional network learns the labels of the
upper half and is judged on the lower one. Vessels and disc are few pixels, so each class has a
weight.

`fused_ce.replace_modules` swaps the loss in a copy of the model. Both see the same crops, so the
two trainings must be the same but for rounding. That is checked, and drawn in segmentation.png.
"""

import argparse
import copy
import random
import sys
import time
from pathlib import Path
from statistics import median

import fused_ce
import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from memory import most_held
from rich.console import Console
from rich.progress import track
from rich.table import Table
from skimage import data, filters, morphology, transform
from torch import Tensor, nn

CLASSES = ("retina", "vessel", "optic disc")
IGNORED = 255  # as in PASCAL VOC and Cityscapes
BATCH, SIDE = 8, 64  # crops of a step
RATE = 0.06  # of learning, at most
CALLS = 4  # of the loss in a step: the first does the work and warms the caches, others are timed
# How far may rounding pull the two trainings apart? Descent makes early differences grow. A third
# training shows how: with torch's loss as well, from weights that are changed in their last digit.
# Ours, each step of which rounds in another way, may be a few times further off.
ALLOWED = 10


def read_eye() -> tuple[Tensor, Tensor]:
    """Return the photograph, (3, H, W) in [0, 1], and its labels, (H, W)."""
    photograph = transform.downscale_local_mean(data.retina(), (3, 3, 1)) / 255
    green = photograph[..., 1]  # in which blood is darkest
    inside = morphology.isotropic_erosion(photograph.sum(2) > 0.25, 8)
    ridges = filters.sato(green, sigmas=(1, 2, 3), black_ridges=True)
    bloodless = filters.gaussian(morphology.closing(green, morphology.disk(6)), 4)
    labels = np.zeros(green.shape, np.int64)
    for label, score, unsure, sure in (
        (CLASSES.index("vessel"), ridges, 0.009, 0.019),
        (CLASSES.index("optic disc"), bloodless, 0.50, 0.58),
    ):
        labels[score > unsure] = IGNORED
        connected = filters.apply_hysteresis_threshold(score, (unsure + sure) / 2, sure)
        labels[connected] = label
    labels[~inside] = IGNORED
    return torch.from_numpy(photograph).float().permute(2, 0, 1), torch.from_numpy(labels)


class Segmenter(nn.Module):
    """A network and its loss: full resolution for vessels, a quarter for what surrounds them. With
    tanh, whose smoothness keeps differences small: where ReLU bends, rounding decides for one side.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Tanh(),
        )
        self.coarse = nn.Sequential(nn.Conv2d(16, 32, 4, stride=4), nn.Tanh())
        for reach in (1, 2, 4):
            self.coarse += nn.Sequential(
                nn.Conv2d(32, 32, 3, padding=reach, dilation=reach), nn.Tanh()
            )
        self.output = nn.Conv2d(48, len(CLASSES), 1)
        self.criterion = nn.CrossEntropyLoss(weight, ignore_index=IGNORED)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        coarse = nn.functional.interpolate(self.coarse(fine), size=fine.shape[2:], mode="bilinear")
        logits: Tensor = self.output(torch.cat((fine, coarse), 1))
        return logits


class Training:
    """A model and a diary."""

    def __init__(self, name: str, model: Segmenter, steps: int) -> None:
        self.name, self.model = name, model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True)
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, RATE, steps)
        self.losses: list[float] = []
        self.milliseconds: list[float] = []  # that a call of the loss took, forward and backward

    def step(self, images: Tensor, labels: Tensor) -> None:
        logits = self.model(images)
        cut = logits.detach().requires_grad_()  # so that the clock sees the loss, not the network
        for call in range(CALLS):
            cut.grad = None
            start = time.perf_counter()
            loss = self.model.criterion(cut, labels)
            loss.backward()
            if call:
                self.milliseconds.append(1e3 * (time.perf_counter() - start))
        self.optimizer.zero_grad()
        logits.backward(cut.grad)
        self.optimizer.step()
        self.cycle.step()
        self.losses.append(loss.item())

    def memory(self) -> float:
        """Return the MB that the loss of a step needs beside the gradient."""
        logits = torch.zeros(BATCH, len(CLASSES), SIDE, SIDE, requires_grad=True)
        labels = torch.zeros(BATCH, SIDE, SIDE, dtype=torch.long)
        held = most_held(lambda: self.model.criterion(logits, labels).backward())
        return (held - logits.nbytes) / 1e6


def crops(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a batch out at random, turned and mirrored at random."""
    layers = torch.cat((image, labels.unsqueeze(0)))
    cut = []
    for _ in range(BATCH):
        top, left = (random.randint(0, size - SIDE) for size in labels.shape)
        crop = layers[:, top : top + SIDE, left : left + SIDE].rot90(random.randrange(4), (1, 2))
        cut.append(crop.flip(2) if random.random() < 0.5 else crop)
    batch = torch.stack(cut)
    return batch[:, :3], batch[:, 3].long()


def overlaps(prediction: Tensor, labels: Tensor) -> list[float]:
    """Return intersection over union of each class, over the pixels that have a label."""
    known = labels != IGNORED
    return [
        float((known & (prediction == c) & (labels == c)).sum())
        / float((known & ((prediction == c) | (labels == c))).sum())
        for c in range(len(CLASSES))
    ]


def draw(
    path: Path, runs: list[Training], image: Tensor, labels: Tensor, prediction: Tensor
) -> None:
    mpl.use("Agg")
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("axes", titleweight="bold")
    figure = plt.figure(figsize=(12, 8), layout="constrained", dpi=150)
    grid = figure.add_gridspec(2, height_ratios=(1.5, 1), hspace=0.06)
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    colours = ListedColormap(["#fbe3d6", "#b2182b", "#e6ab02", "#bdbdbd"])
    titles = ("Photograph", "Labels (grey: ignored)", "Prediction (trained with fused_ce)")
    outside = len(CLASSES)
    pictures = (
        image.permute(1, 2, 0),
        labels.where(labels != IGNORED, outside),
        prediction.where(image.sum(0) > 0.25, outside),
    )
    middle = image.shape[1] // 2
    for axes, picture, title in zip(above.subplots(1, 3), pictures, titles, strict=True):
        axes.imshow(picture, cmap=colours, vmin=0, vmax=outside, interpolation="nearest")
        axes.axhline(middle - 0.5, color="black", lw=1, ls="--")
        axes.set(xticks=[], yticks=[], frame_on=False, title=title)
        axes.text(0, 14, "trained on", size=8, color="gray")
        axes.text(0, middle * 2 - 4, "judged on", size=8, color="gray")
    patches = [Patch(color=colours(i), label=name) for i, name in enumerate(CLASSES)]
    above.legend(handles=patches, loc="outside lower center", ncols=len(CLASSES), frameon=False)

    curve, cost, memory = below.subplots(1, 3, width_ratios=(2, 1, 1))
    ours, theirs = "#d55e00", "#56b4e9"
    for run, colour, width in zip(runs, (theirs, ours), (5, 1.2), strict=True):
        curve.plot(run.losses, color=colour, lw=width, label=run.name)
    curve.set(title="Training loss", xlabel="step", ylabel="weighted cross entropy", yscale="log")
    curve.legend(frameon=False)
    names = ["torch.nn", "fused_ce"]
    times = [median(run.milliseconds) for run in runs]
    cost.bar_label(cost.bar(names, times, 0.5, color=(theirs, ours)), fmt="%.2f ms", padding=4)
    shape = f"{BATCH} x {len(CLASSES)} x {SIDE} x {SIDE} logits"
    cost.set(
        title="Time of a call of the loss", ylabel="forward + backward, median (ms)", xlabel=shape
    )
    held = [run.memory() for run in runs]
    memory.bar_label(memory.bar(names, held, 0.5, color=(theirs, ours)), fmt="%.2f MB", padding=4)
    memory.set(title="Its memory", ylabel="MB beside the gradient", xlabel=shape)
    for axes, most in ((cost, max(times)), (memory, max(held))):
        axes.set_ylim(0, 1.15 * most)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description="Segment an eye with torch's loss and with ours.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".png"))
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so small a network gains little from more, and waits if busy

    image, labels = read_eye()
    middle = image.shape[1] // 2
    mean, deviation = (f(image, (1, 2), keepdim=True) for f in (torch.mean, torch.std))
    normal = (image - mean) / deviation
    count = torch.bincount(labels[:middle][labels[:middle] != IGNORED], minlength=len(CLASSES))
    weight = (count.sum() / count).sqrt()  # the rarer a class, the more a pixel of it counts

    model = Segmenter(weight)
    theirs, ours, twin = (
        Training(name, copy.deepcopy(model), args.steps)
        for name in ("torch.nn.CrossEntropyLoss", "fused_ce.CrossEntropyLoss", "last digit changed")
    )
    assert fused_ce.replace_modules(ours.model) == 1
    print(f"replaced by {ours.model.criterion!r} of {type(ours.model.criterion).__module__}")
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.mul_(1 + torch.finfo(parameter.dtype).eps)
    runs = [theirs, ours]
    for number in track(range(args.steps), "training", disable=not sys.stdout.isatty()):
        batch = crops(normal[:, :middle], labels[:middle])
        for run in runs if number % 2 else reversed(runs):  # neither is always the first
            run.step(*batch)
        twin.step(*batch)

    with torch.no_grad():
        predictions = [run.model(normal.unsqueeze(0)).argmax(1)[0] for run in runs]
    scores = [overlaps(p[middle:], labels[middle:]) for p in predictions]
    table = Table("lower half: intersection over union", "pixels", "torch", "fused_ce")
    for i, name in enumerate(CLASSES):
        pixels = f"{int((labels[middle:] == i).sum()):,}"
        table.add_row(name, pixels, *(f"{score[i]:.1%}" for score in scores))
    Console().print(table)
    for run in runs:
        print(
            f"{run.name} forward + backward, median: {median(run.milliseconds):.2f} ms, "
            f"{run.memory():.2f} MB beside the gradient"
        )
    draw(args.picture, runs, image, labels, predictions[1])
    print(f"picture: {args.picture}")
    apart, rounding = (
        max(abs(a - b) for a, b in zip(theirs.losses, run.losses, strict=True))
        for run in (ours, twin)
    )
    print(
        f"largest difference of a loss, all steps: {apart:.1e}; "
        f"of torch's own from other last digits: {rounding:.1e}"
    )
    if not apart <= ALLOWED * rounding:
        raise SystemExit("the two trainings disagree beyond rounding")
    if min(scores[1]) < 0.3:
        raise SystemExit("a class was not learned")


if __name__ == "__main__":
    main()
