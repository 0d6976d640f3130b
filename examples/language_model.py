"""A word-level language model on the documentation that every CPython ships.

The text is `pydoc_data.topics`: what `help("assignment")` and its sisters print. An LSTM reads it
word by word and guesses the next one. Its loss, over the whole vocabulary, is the line
`torch.ops.fused_ce.cross_entropy(...)`; at the end the model writes documentation of its own.
"""

import argparse
import math
import random
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import NamedTuple

import fused_ce  # noqa: F401  (importing it registers torch.ops.fused_ce)
import torch
from rich.progress import track
from torch import Tensor, nn

UNKNOWN = 0  # the id of every word that training never saw
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

    def forward(self, words: Tensor, state: State | None) -> tuple[Tensor, State]:
        hidden, state = self.lstm(self.dropout(self.embedding(words)), state)
        return self.output(self.dropout(hidden)), state


def batches(stream: Tensor, columns: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """Cut a stream of words into `columns` parallel ones: (words, the words that follow)."""
    rows = (len(stream) - 1) // columns
    words = stream[: rows * columns].view(columns, rows).t()
    following = stream[1 : rows * columns + 1].view(columns, rows).t()
    return list(zip(torch.split(words, length), torch.split(following, length), strict=True))


def fit(model: Model, stream: Tensor, epochs: int) -> Iterator[tuple[int, float, float]]:
    """Yield after each epoch its number, the mean loss and the words a second."""
    steps = batches(stream, columns=32, length=32)
    optimizer = torch.optim.Adam(model.parameters())
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * len(steps))
    quiet = not sys.stdout.isatty()  # a log wants no progress bars
    for epoch in range(1, epochs + 1):
        model.train()
        total, seen, state, start = 0.0, 0, None, time.perf_counter()
        for words, following in track(steps, f"epoch {epoch}", transient=True, disable=quiet):
            logits, (h, c) = model(words, state)
            state = h.detach(), c.detach()
            loss = torch.ops.fused_ce.cross_entropy(logits.flatten(0, 1), following.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            cycle.step()
            total, seen = total + loss.item() * following.numel(), seen + following.numel()
        yield epoch, total / seen, seen / (time.perf_counter() - start)


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
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)

    vocabulary, ids, train, held_out = read_corpus()
    prompt = [ids.get(w, UNKNOWN) for w in words_of(args.prompt)]
    if not prompt or UNKNOWN in prompt:
        parser.error(f"--prompt {args.prompt!r} needs words that the text has (capitals matter)")
    unseen = (held_out == UNKNOWN).float().mean()
    print(f"{len(train):,} words to learn from; the vocabulary has {len(vocabulary):,}")
    print(f"{len(held_out):,} words held out; {unseen:.1%} of them are not in the vocabulary")

    model = Model(len(vocabulary), args.width, dropout=0.4)
    for epoch, mean, speed in fit(model, train, args.epochs):
        held = evaluate(model, held_out)
        print(
            f"epoch {epoch:2}  loss {mean:.4f}  perplexity {math.exp(mean):7.1f}  "
            f"held-out perplexity {math.exp(held):7.1f}  {speed:7,.0f} tokens/s",
            flush=True,
        )
    written = write(model, prompt, args.words, args.temperature)
    print(f"\n{as_text([vocabulary[i] for i in written])}")


if __name__ == "__main__":
    main()
