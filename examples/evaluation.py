# SPDX-License-Identifier: BSD-3-Clause
"""Evaluate a language model: all that is asked of the logits, in one read of them a batch.

The model and the text are those of `language_model.py`. Beside the loss, `cross_entropy_stats` has
each word's prediction, its probability and the entropy: perplexity, accuracy and calibration are
sums of them. A word that training never saw is ignored.
"""

import argparse
import math
import random

import fused_ce
import torch
from language_model import UNKNOWN, Model, batches, fit, read_corpus
from rich.console import Console
from rich.table import Table
from torch import Tensor


@torch.no_grad()
def evaluate(model: Model, stream: Tensor) -> dict[str, float]:
    model.eval()
    losses, entropies, confidences, hits = [], [], [], []
    state = None
    for words, following in batches(stream, columns=4, length=64):
        logits, state = model(words, state)
        target = following.flatten()
        stats = fused_ce.cross_entropy_stats(
            logits.flatten(0, 1),
            target,
            ignore_index=UNKNOWN,
            reduction="none",
            return_entropy=True,
            return_prediction=True,
        )
        assert stats.entropy is not None
        assert stats.prediction is not None
        assert stats.confidence is not None
        known = target != UNKNOWN
        losses.append(stats.loss[known])
        entropies.append(stats.entropy[known])
        confidences.append(stats.confidence[known])
        hits.append((stats.prediction == target)[known])
    confidence, hit = torch.cat(confidences), torch.cat(hits)
    loss = float(torch.cat(losses).mean())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "entropy": float(torch.cat(entropies).mean()),
        "accuracy": float(hit.float().mean()),
        "confidence": float(confidence.mean()),
        "confidence where right": float(confidence[hit].mean()),
        "confidence where wrong": float(confidence[~hit].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a language model of Python's help.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so small a model gains little from more, and waits for them if busy

    corpus = read_corpus()
    model = Model(len(corpus.vocabulary), 64, dropout=0.2)
    for epoch, mean, *_ in fit(model, corpus.train, args.epochs):
        print(f"epoch {epoch}  loss {mean:.4f}", flush=True)
    # Beside what it never saw, as much that it learned from. Words that it does not know, the
    # rarest, are ignored in the former: while it knows little by heart, that loss is the lower one.
    learned = evaluate(model, corpus.train[: len(corpus.held_out)])
    held_out = evaluate(model, corpus.held_out)
    table = Table("", "learned from", "held out")
    for name, value in learned.items():
        table.add_row(name, f"{value:.3f}", f"{held_out[name]:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
