# SPDX-License-Identifier: BSD-3-Clause
"""Train a small Llama of transformers three ways, without editing transformers.

- stock: the loss that transformers brings;
- logits: `model.loss_function = fused_ce.causal_lm_loss`, which makes no float32 copy of them;
- hidden states: a subclass that, while it trains, never has all of the logits.

Nothing is downloaded: the text is the documentation that every CPython ships, a tokenizer is
trained on it, and the model starts at random. What a step takes, in time and memory, is measured.
Then transformers' Trainer trains each, adding up the gradients of two batches a step, and evaluates
it: the losses of all three must be the same but for rounding. So must be the log-probabilities and
entropies of reinforcement learning, with TRL's formulas and in one call of ours.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pydoc_data.topics import topics
from statistics import median
from typing import Any, NamedTuple

import fused_ce
import torch
import transformers
from memory import most_held
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

VOCABULARY, LENGTH, BATCH = 8192, 128, 8
HELD_OUT = 32  # pieces of text
STEPS = 24
# How far may rounding pull two trainings in float32 apart? As in digits.py: 20 eps in a gradient,
# ten times that for curvature, and the loss falls from ln VOCABULARY.
# In bfloat16 no further than bfloat16 itself moves the losses of the stock model.
BOUND = 10 * 20 * torch.finfo(torch.float32).eps * math.log(VOCABULARY)


class FusedLlamaForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """Hands hidden states to the loss while it trains; else it is LlamaForCausalLM.

    The Trainer goes by names. Only for a class that is called ...ForCausalLM does it know that the
    first label of a text is no target, and it drops the columns of a data set that `forward` has no
    argument for.
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        if labels is None or not self.training:
            return super().forward(input_ids, attention_mask, labels=labels, **kwargs)
        hidden = self.model(input_ids, attention_mask, **kwargs).last_hidden_state
        loss = fused_ce.linear_causal_lm_loss(
            hidden,
            self.lm_head.weight,
            labels,
            num_items_in_batch=kwargs.get("num_items_in_batch"),
            shift_labels=kwargs.get("shift_labels"),
        )
        return CausalLMOutputWithPast(loss=loss)


def new_model(way: str, dtype: torch.dtype) -> LlamaForCausalLM:
    """All start with the same weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
    )
    model = (FusedLlamaForCausalLM if way == "hidden states" else LlamaForCausalLM)(config)
    if way != "stock":
        model.loss_function = fused_ce.causal_lm_loss
    return model.to(dtype)


WAYS = ("stock", "logits", "hidden states")
DTYPES = (torch.float32, torch.bfloat16)


class Text(NamedTuple):
    pieces: list[dict[str, list[int]]]  # of at most LENGTH tokens; the last of a topic is shorter
    collator: transformers.DataCollatorForLanguageModeling  # pads them; padding is no target


def read_text() -> Text:
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>"], show_progress=False
    )
    pairs.train_from_iterator(topics.values(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pairs, pad_token="<pad>")
    pieces = []
    for topic in topics.values():
        ids = tokenizer(topic)["input_ids"]
        pieces += [{"input_ids": ids[i : i + LENGTH]} for i in range(0, len(ids), LENGTH)]
    return Text(pieces, transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False))


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def step(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> float:
    """Return the loss, and leave gradients."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return float(loss.detach())


def measure(text: Text) -> None:
    """Print what a step takes. The ways take turns."""
    batch = text.collator(text.pieces[:BATCH])
    table = Table(
        "", "", "loss", "ms", "peak MB", title="A step, and its memory beside the weights"
    )
    for dtype in DTYPES:
        trained = {way: new_model(way, dtype) for way in WAYS}
        milliseconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(8):
            for way, model in trained.items():
                start = time.perf_counter()
                step(model, batch)
                milliseconds[way].append(1e3 * (time.perf_counter() - start))
        for way, model in trained.items():
            loss = step(model, batch)
            model.zero_grad()
            held = most_held(partial(step, model, batch)) / 1e6
            took = median(milliseconds[way][1:])
            table.add_row(way, name_of(dtype), f"{loss:.5f}", f"{took:.0f}", f"{held:.1f}")
    Console().print(table)


def train(model: LlamaForCausalLM, text: Text) -> list[float]:
    """Return the loss of each step, and that of the evaluation after the last."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            gradient_accumulation_steps=2,
            max_steps=STEPS,
            learning_rate=2e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = transformers.Trainer(
            model,
            arguments,
            data_collator=text.collator,
            train_dataset=text.pieces[HELD_OUT:],
            eval_dataset=text.pieces[:HELD_OUT],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return [*losses, trainer.evaluate()["eval_loss"]]


def apart(some: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


def compare_trainings(text: Text) -> bool:
    """Print the losses of the Trainer, and return whether they are the same but for rounding."""
    runs = {(way, dtype): train(new_model(way, dtype), text) for dtype in DTYPES for way in WAYS}
    exact = runs["stock", torch.float32]
    bounds = {
        torch.float32: BOUND,
        torch.bfloat16: apart(exact, runs["stock", torch.bfloat16]),
    }
    table = Table(
        "",
        "",
        "step 1",
        f"step {STEPS}",
        "held out",
        "off by",
        "allowed",
        title="Losses of the Trainer",
    )
    right = len(exact) == STEPS + 1 and exact[-1] < 0.9 * exact[0]
    for (way, dtype), losses in runs.items():
        difference, bound = apart(losses, runs["stock", dtype]), bounds[dtype]
        right &= difference <= bound
        shown = (f"{loss:.5f}" for loss in (losses[0], *losses[-2:]))
        table.add_row(way, name_of(dtype), *shown, f"{difference:.1e}", f"{bound:.1e}")
    Console().print(table)
    return right


Policy = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def formulas_of_trl(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """What selective_log_softmax and entropy_from_logits of trl.trainer.utils compute."""
    logps = (logits / temperature).log_softmax(-1)
    return logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), -(logps.exp() * logps).sum(-1)


def one_call(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    stats = fused_ce.cross_entropy_stats(
        logits.flatten(0, -2),
        tokens.flatten(),
        temperature=temperature,
        reduction="none",
        return_entropy=True,
    )
    assert stats.entropy is not None
    return -stats.loss.view_as(tokens), stats.entropy.view_as(tokens)


def policy_gradient(
    function: Policy, logits: Tensor, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities, entropies, and a gradient of both."""
    logps, entropy = function(logits, tokens, temperature)
    (gradient,) = torch.autograd.grad((logps + 0.01 * entropy).sum(), logits)
    return logps.detach(), entropy.detach(), gradient


def compare_policies(text: Text) -> bool:
    """Print what TRL asks of logits, and return whether ours is the same but for rounding."""
    temperature = 0.9
    prompt = text.collator(text.pieces[:BATCH])["input_ids"]
    with torch.no_grad():
        logits = (
            20 * new_model("stock", torch.float32)(prompt).logits
        )  # as decided as a trained one
        chances = (logits / temperature).softmax(-1)
    tokens = torch.multinomial(chances.flatten(0, 1), 1).view_as(prompt)
    logits.requires_grad_()
    table = Table("", "mean log-probability", "mean entropy", "ms", "peak MB", title="A policy")
    ways = {"formulas of TRL": formulas_of_trl, "one call": one_call}
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5):
        for name, function in ways.items():
            start = time.perf_counter()
            policy_gradient(function, logits, tokens, temperature)
            milliseconds[name].append(1e3 * (time.perf_counter() - start))
    results = []
    for name, function in ways.items():
        work = partial(policy_gradient, function, logits, tokens, temperature)
        held = most_held(work) / 1e6
        results.append(work())
        means = (f"{result.mean():.5f}" for result in results[-1][:2])
        table.add_row(name, *means, f"{median(milliseconds[name]):.0f}", f"{held:.1f}")
    Console().print(table)
    worst = max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))
    # A logarithm of a probability is a difference of numbers that are as large as the logits.
    bound = 20 * torch.finfo(torch.float32).eps * float(logits.detach().abs().max() / temperature)
    print(f"they and their gradients differ by at most {worst:.1e}; rounding allows {bound:.1e}")
    return worst <= bound


def main() -> None:
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # so small a model gains little from more, and waits if busy
    text = read_text()
    print(f"{len(text.pieces)} pieces of text; {BATCH} x {LENGTH} x {VOCABULARY} logits a batch")
    measure(text)
    if not compare_trainings(text):
        raise SystemExit("the trainings differ by more than rounding")
    if not compare_policies(text):
        raise SystemExit("the log-probabilities differ by more than rounding")


if __name__ == "__main__":
    main()
