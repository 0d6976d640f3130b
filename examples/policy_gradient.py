# SPDX-License-Identifier: BSD-3-Clause
"""A policy gradient on a language model: the loss head of reinforcement learning.

The model of `language_model.py`, after an epoch of its text, writes groups of completions, is
rewarded for one kind of words, and learns from them in the manner of GRPO (Shao et al., 2024,
arXiv:2402.03300): a completion's advantage is its reward beside its group's. One call of
`cross_entropy_stats` gives the log-probability of each word, at the temperature that it was drawn
at, and the entropy, of which a bonus keeps the model from writing one word for ever.
"""

import argparse
import random

import fused_ce
import torch
from language_model import Model, fit, read_corpus
from torch import Tensor, nn


@torch.no_grad()
def complete(model: Model, prompts: Tensor, length: int, temperature: float) -> Tensor:
    """Draw `length` words after each of the prompts, which are one word each: (length + 1, N)."""
    model.eval()
    written, state = [prompts], None
    for _ in range(length):
        logits, state = model(written[-1].unsqueeze(0), state)
        # Of all words: what is drawn from must be what the loss takes the probabilities of.
        written.append(torch.multinomial((logits[0] / temperature).softmax(1), 1).squeeze(1))
    return torch.stack(written)


def advantages_of(rewards: Tensor, group: int) -> Tensor:
    """How far each reward is above the mean of its group, in standard deviations."""
    groups = rewards.view(-1, group)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).flatten()


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach a language model by reward.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--entropy-bonus", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so small a model gains little from more, and waits for them if busy

    corpus = read_corpus()
    # Without dropout: the model that learns has to be the one that wrote.
    model = Model(len(corpus.vocabulary), 64, dropout=0.0)
    for epoch, mean, *_ in fit(model, corpus.train, 1):
        print(f"epoch {epoch}  loss {mean:.4f}", flush=True)

    prompts, group, length = 8, 8, 12
    # A reward that is easy to see: the share of words that begin with a vowel.
    rewarded = torch.tensor([word[0].lower() in "aeiou" for word in corpus.vocabulary]).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(1, args.steps + 1):
        starts = corpus.train[torch.randint(len(corpus.train), (prompts,))]
        words = complete(model, starts.repeat_interleave(group), length, args.temperature)
        rewards = rewarded[words[1:]].mean(0)
        advantages = advantages_of(rewards, group)

        model.train()
        logits, _ = model(words[:-1], None)
        # One step an update: the ratio of new to old probabilities is 1, and nothing is clipped.
        stats = fused_ce.cross_entropy_stats(
            logits.flatten(0, 1),
            words[1:].flatten(),
            reduction="none",
            temperature=args.temperature,
            return_entropy=True,
        )
        assert stats.entropy is not None
        losses = advantages.repeat(length) * stats.loss  # -advantage * log-probability
        loss = losses.mean() - args.entropy_bonus * stats.entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step == 1 or step % 5 == 0:
            print(
                f"step {step:3}  reward {rewards.mean():.3f}  "
                f"entropy {stats.entropy.mean().item():.3f} nats",
                flush=True,
            )


if __name__ == "__main__":
    main()
