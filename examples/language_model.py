# SPDX-License-Identifier: BSD-3-Clause
"""A word-level language model on the documentation that every CPython ships.

The text is `pydoc_data.topics`: what `help("assignment")` and its sisters print. An LSTM reads it
word by word and guesses the next one. Its loss, over the whole vocabulary, is the line
`torch.ops.fused_ce.cross_entropy(...)`; at the end the model writes documentation of its own.

With `--linear`, the same model is trained once more with `fused_ce.linear_cross_entropy`, which
takes the last layer's inputs and weights, and never makes all of the logits. The losses of both are
drawn beside this file (language_model.png), with the memory that each needs for them.
"""

import argparse
import math
import random
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import fused_ce
import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from memory import most_held
from rich.progress import track
from torch import Tensor, nn

UNKNOWN = 0  # the id of every word that training never saw
CHUNK_ROWS = 256  # of how many words the logits are there at a time
State = tuple[Tensor, Tensor]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’.-]\w+)*(?:\(\))?|[^\w\s]", re.sub(r'["“”*]', "", text))


def read_paragraphs() -> list[list[str]]:
    """Return the words of each paragraph of prose, once: the topics repeat one another."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise SystemExit(f"{error}: on Debian it is in libpython3-stdlib") from None
    unique = dict.fromkeys(p for topic in topics.values() for p in re.split(r"\n\s*\n", topic))
    prose = [p for p in unique if sum(c.isalpha() or c.isspace() for c in p) > 0.8 * len(p)]
    return [[*words_of(p), "<end>"] for p in prose]


class Corpus(NamedTuple):
    vocabulary: list[str]
    ids: dict[str, int]
    train: Tensor
    held_out: Tensor


def read_corpus() -> Corpus:
    """Hold out a twelfth of the paragraphs; the vocabulary is that of the others."""
    paragraphs = read_paragraphs()
    random.shuffle(paragraphs)
    split = len(paragraphs) // 12
    vocabulary = ["<unknown>", *sorted({w for p in paragraphs[split:] for w in p})]
    ids = {word: i for i, word in enumerate(vocabulary)}
    held_out, train = (
        torch.tensor([ids.get(w, UNKNOWN) for p in part for w in p])
        for part in (paragraphs[:split], paragraphs[split:])
    )
    return Corpus(vocabulary, ids, train, held_out)


class Model(nn.Module):
    def __init__(self, vocabulary: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.output.weight = self.embedding.weight  # a word is read and written with one vector

    def hidden(self, words: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return what the last layer is given."""
        hidden, state = self.lstm(self.dropout(self.embedding(words)), state)
        return self.dropout(hidden), state

    def forward(self, words: Tensor, state: State | None) -> tuple[Tensor, State]:
        hidden, state = self.hidden(words, state)
        return self.output(hidden), state


Loss = Callable[[nn.Linear, Tensor, Tensor], Tensor]


def loss_of_logits(layer: nn.Linear, hidden: Tensor, following: Tensor) -> Tensor:
    logits = layer(hidden)
    loss: Tensor = torch.ops.fused_ce.cross_entropy(logits.flatten(0, 1), following.flatten())
    return loss


def loss_without_logits(layer: nn.Linear, hidden: Tensor, following: Tensor) -> Tensor:
    return fused_ce.linear_cross_entropy(
        hidden, layer.weight, following, linear_bias=layer.bias, chunk_rows=CHUNK_ROWS
    )


def batches(stream: Tensor, columns: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """Cut a stream of words into `columns` parallel ones: (words, the words that follow)."""
    rows = (len(stream) - 1) // columns
    words = stream[: rows * columns].view(columns, rows).t()
    following = stream[1 : rows * columns + 1].view(columns, rows).t()
    return list(zip(torch.split(words, length), torch.split(following, length), strict=True))


class Epoch(NamedTuple):
    number: int
    loss: float  # the mean of its words
    speed: float  # in words a second
    steps: list[float]  # the loss of each


def fit(
    model: Model, stream: Tensor, epochs: int, loss_of: Loss = loss_of_logits
) -> Iterator[Epoch]:
    """Train, and yield after each epoch what it was like."""
    steps = batches(stream, columns=32, length=32)
    optimizer = torch.optim.Adam(model.parameters())
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * len(steps))
    quiet = not sys.stdout.isatty()  # a log wants no progress bars
    for epoch in range(1, epochs + 1):
        model.train()
        losses: list[float] = []
        total, seen, state, start = 0.0, 0, None, time.perf_counter()
        for words, following in track(steps, f"epoch {epoch}", transient=True, disable=quiet):
            hidden, (h, c) = model.hidden(words, state)
            state = h.detach(), c.detach()
            loss = loss_of(model.output, hidden, following)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            cycle.step()
            losses.append(loss.item())
            total, seen = total + losses[-1] * following.numel(), seen + following.numel()
        yield Epoch(epoch, total / seen, seen / (time.perf_counter() - start), losses)


@torch.no_grad()
def evaluate(model: Model, stream: Tensor) -> float:
    """Return the mean loss a word; words that training never saw are ignored, not guessed."""
    model.eval()
    logits, _ = model(stream[:-1].unsqueeze(1), None)
    logits, following = logits.squeeze(1), stream[1:]
    return float(torch.ops.fused_ce.cross_entropy(logits, following, ignore_index=UNKNOWN))


@torch.no_grad()
def write(model: Model, prompt: list[int], words: int, temperature: float) -> list[int]:
    model.eval()
    written = list(prompt)
    logits, state = model(torch.tensor(prompt).unsqueeze(1), None)
    for _ in range(words):
        scores = logits[-1, 0] / temperature
        scores[UNKNOWN] = -math.inf
        written.append(int(torch.multinomial(scores.softmax(0), 1)))
        logits, state = model(torch.tensor([[written[-1]]]), state)
    return written


def train(
    args: argparse.Namespace, corpus: Corpus, loss_of: Loss = loss_of_logits
) -> tuple[Model, list[float]]:
    """Return a trained model, and the loss of each step."""
    torch.manual_seed(args.seed)
    model, losses = Model(len(corpus.vocabulary), args.width, dropout=0.4), []
    for epoch in fit(model, corpus.train, args.epochs, loss_of):
        held = evaluate(model, corpus.held_out)
        losses += epoch.steps
        print(
            f"epoch {epoch.number:2}  loss {epoch.loss:.4f}  "
            f"perplexity {math.exp(epoch.loss):7.1f}  "
            f"held-out perplexity {math.exp(held):7.1f}  {epoch.speed:7,.0f} tokens/s",
            flush=True,
        )
    return model, losses


def memory_of(loss_of: Loss, model: Model, rows: int) -> float:
    """Return the MB that a step's loss needs at most, beside the gradients of the layer."""
    hidden = torch.zeros(rows, 1, model.output.in_features, requires_grad=True)
    following = torch.zeros(rows, 1, dtype=torch.long)

    def work() -> None:
        loss = loss_of(model.output, hidden, following)
        loss.backward()  # type: ignore[no-untyped-call]

    most = most_held(work)
    gradients = [g for p in (hidden, *model.output.parameters()) if (g := p.grad) is not None]
    model.zero_grad()
    return (most - sum(g.nbytes for g in gradients)) / 1e6


def compare(path: Path, losses: list[list[float]], memory: list[float]) -> None:
    """Draw the losses of both trainings, and how much memory each took for them."""
    mpl.use("Agg")
    mpl.rc("axes.spines", top=False, right=False)
    names, colors = ["with logits", "linear_cross_entropy"], ["tab:gray", "tab:blue"]
    figure, (curves, bars) = plt.subplots(
        1, 2, figsize=(10, 3.8), width_ratios=(2.4, 1), layout="constrained", dpi=150
    )
    for run, name, color, style in zip(losses, names, colors, ("-", "--"), strict=True):
        curves.plot(run, style, color=color, label=name, linewidth=1.5)
    curves.set(xlabel="step", ylabel="loss", title="Loss of each step of training")
    curves.legend(frameon=False)
    shown = bars.bar(names, memory, color=colors)
    bars.bar_label(shown, fmt="%.1f MB")
    bars.set(title="Memory of a step's loss", ylabel="MB beside the gradients")
    figure.savefig(path)
    plt.close(figure)


def as_text(words: list[str]) -> str:
    """Put the words together as a typist would: paragraphs, no space before a comma."""
    text = re.sub(r" (?=[.,;:!?)\]}])|(?<=[(\[{]) ", "", " ".join(words))
    return "\n\n".join(textwrap.fill(p.strip(), 96) for p in text.split("<end>"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a language model on Python's own help.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=256, help="size of a word vector")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", default="The function")
    parser.add_argument("--words", type=int, default=150, help="how many to write at the end")
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument(
        "--linear", action="store_true", help="train once more without logits; compare both"
    )
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)

    vocabulary, ids, learned, held_out = read_corpus()
    prompt = [ids.get(w, UNKNOWN) for w in words_of(args.prompt)]
    if not prompt or UNKNOWN in prompt:
        parser.error(f"--prompt {args.prompt!r} needs words that the text has (capitals matter)")
    unseen = (held_out == UNKNOWN).float().mean()
    print(f"{len(learned):,} words to learn from; the vocabulary has {len(vocabulary):,}")
    print(f"{len(held_out):,} words held out; {unseen:.1%} of them are not in the vocabulary")

    corpus = Corpus(vocabulary, ids, learned, held_out)
    model, losses = train(args, corpus)
    if args.linear:
        print(f"\nthe same with linear_cross_entropy, {CHUNK_ROWS} words at a time")
        _, others = train(args, corpus, loss_without_logits)
        memory = [memory_of(f, model, 1024) for f in (loss_of_logits, loss_without_logits)]
        path = Path(__file__).with_suffix(".png")
        compare(path, [losses, others], memory)
        first = sum(a == b for a, b in zip(losses, others, strict=True))
        apart = max(abs(a - b) for a, b in zip(losses, others, strict=True))
        print(
            f"the losses of both are at most {apart:.3f} apart ({first} of {len(losses)} the same "
            f"number); memory of a step's loss: {memory[0]:.1f} MB with logits, {memory[1]:.1f} "
            f"without (drawn in {path.name})"
        )
    written = write(model, prompt, args.words, args.temperature)
    print(f"\n{as_text([vocabulary[i] for i in written])}")


if __name__ == "__main__":
    main()
