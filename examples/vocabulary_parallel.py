# SPDX-License-Identifier: BSD-3-Clause
"""Share a vocabulary out to processes: each has some of the words, none the logits of all.

    torchrun --nproc-per-node 2 examples/vocabulary_parallel.py

The model and the text are those of `language_model.py`. What it writes words with, one vector for
each word of the vocabulary, is cut: each process holds the vectors of its own words, and
`fused_ce.distributed.linear_cross_entropy` is the loss over all of them, the same on every process.
Everything before is on all processes alike. The same model is trained by one process alone, too,
and the losses of each step are compared. Without torchrun, two processes are started from here.
"""

import argparse
import os
import random
import subprocess
import sys
from collections.abc import Callable

import fused_ce
import fused_ce.distributed
import torch
import torch.distributed as dist
from language_model import Corpus, Model, batches, read_corpus
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

WIDTH = 128
COLUMNS, LENGTH = 16, 32  # words of a step

Loss = Callable[[nn.Linear, Tensor, Tensor], Tensor]


def loss_of_all(layer: nn.Linear, hidden: Tensor, following: Tensor) -> Tensor:
    return fused_ce.linear_cross_entropy(hidden, layer.weight, following, linear_bias=layer.bias)


def loss_of_slices(layer: nn.Linear, hidden: Tensor, following: Tensor) -> Tensor:
    """`layer` has this process's words; `following` counts over those of all."""
    return fused_ce.distributed.linear_cross_entropy(
        hidden, layer.weight, following, linear_bias=layer.bias
    )


def new_model(corpus: Corpus) -> Model:
    """The same on every process. Words are read and written with different vectors: only those
    that write are shared out. Dropout would be drawn anew by each process.
    """
    torch.manual_seed(0)
    model = Model(len(corpus.vocabulary), WIDTH, dropout=0.0)
    model.output = nn.Linear(WIDTH, len(corpus.vocabulary))
    return model


def share_out(model: Model) -> None:
    """Leave the model the words of this process. The slices need not be equal, as here."""
    rank, size = dist.get_rank(), dist.get_world_size()
    whole = model.output
    mine = torch.arange(whole.out_features).tensor_split(size)[rank]
    model.output = nn.Linear(WIDTH, len(mine))
    with torch.no_grad():
        model.output.weight.copy_(whole.weight[mine])
        assert whole.bias is not None and model.output.bias is not None
        model.output.bias.copy_(whole.bias[mine])


def train(model: Model, corpus: Corpus, steps: int, loss_of: Loss) -> list[float]:
    """Return the loss of each step. It is a plain loop: every process computes the same gradient of
    what all have, and that of its own words. (Clipping by a norm would have to add up all slices'.)
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    losses, state = [], None
    for words, following in batches(corpus.train, COLUMNS, LENGTH)[:steps]:
        hidden, (h, c) = model.hidden(words, state)
        state = h.detach(), c.detach()
        loss = loss_of(model.output, hidden, following)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def everyones(thing: object) -> list[object]:
    things: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(things, thing)
    return things


def holds(layer: nn.Linear) -> tuple[int, float, float]:
    """How many words, MB of their vectors, and MB that all logits of a step would take."""
    words = layer.out_features
    return words, layer.weight.nbytes / 1e6, 4 * COLUMNS * LENGTH * words / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Train with a vocabulary in slices.")
    parser.add_argument("--steps", type=int, default=75)
    args = parser.parse_args()
    if "RANK" not in os.environ:  # torchrun's
        command = ["--standalone", "--nproc-per-node", "2", *sys.argv]
        print("two processes, by: torchrun", *command, flush=True)
        torchrun = [sys.executable, "-m", "torch.distributed.run"]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        raise SystemExit(subprocess.run([*torchrun, *command], env=environment).returncode)
    random.seed(0)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")  # on GPUs "nccl"
    rank = dist.get_rank()
    corpus = read_corpus()

    model = new_model(corpus)
    whole = holds(model.output)
    share_out(model)
    held = everyones(holds(model.output))
    losses = train(model, corpus, args.steps, loss_of_slices)
    of_all = everyones(losses)
    assert all(others == losses for others in of_all), "every process has the same bits"

    if rank == 0:
        alone = train(new_model(corpus), corpus, args.steps, loss_of_all)
        report(losses, alone, held, whole)
    dist.barrier()  # the others wait for the training of one
    # gloo's threads may abort an interpreter that ends as usual.
    sys.stdout.flush()
    os._exit(0)


def report(
    losses: list[float], alone: list[float], held: list[object], whole: tuple[int, float, float]
) -> None:
    console = Console()
    table = Table("step", f"loss, {len(held)} processes", "loss, one process")
    shown = sorted({0, *range(24, len(losses), 25), len(losses) - 1})
    for step in shown:
        table.add_row(str(step + 1), f"{losses[step]:.6f}", f"{alone[step]:.6f}")
    console.print(table)
    apart = max(abs(a - b) for a, b in zip(losses, alone, strict=True))
    same = sum(a == b for a, b in zip(losses, alone, strict=True))
    print(f"at most {apart:.1e} apart; {same} of {len(losses)} are the same number")
    table = Table("", "words", "MB of vectors", "MB of logits, were they all there")
    ranks = [f"rank {rank}" for rank in range(len(held))]
    for name, has in zip([*ranks, "one process"], [*held, whole], strict=True):
        assert isinstance(has, tuple)
        words, vectors, logits = has
        table.add_row(name, f"{words:,}", f"{vectors:.2f}", f"{logits:.2f}")
    console.print(table)
    assert apart < 1e-4, "they differ by more than rounding"


if __name__ == "__main__":
    main()
