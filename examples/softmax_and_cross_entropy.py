# SPDX-License-Identifier: BSD-3-Clause
"""From softmax to cross entropy, step by step, in numbers that fused_ce computes.

Every number is checked to the digits shown: one wrong digit ends the program with an error.
"""

import fused_ce
import torch
from torch import Tensor, nn


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def say(text: str) -> None:
    print("\n" + text.strip("\n"))


def check(label: str, value: Tensor, expected: str) -> None:
    """Print the value, rounded to as many digits as expected has, and compare."""
    digits = len(expected.split()[0].partition(".")[2])
    shown = " ".join(f"{v:.{digits}f}" for v in value.flatten().tolist())
    print(f"     {label:<60} {shown}")
    if shown != expected:
        raise SystemExit(f"expected {expected}")


def log_sum_exp(logits: Tensor) -> Tensor:
    # The loss of class 0 is log(sum(exp(x))) - x_0: add x_0 again.
    return fused_ce.cross_entropy(logits, torch.tensor(0)) + logits[0]


def softmax(logits: Tensor) -> Tensor:
    return torch.exp(logits - log_sum_exp(logits))


say("""
1. Softmax makes probabilities of scores.
   A network ends in one score a class, its logits, which may be any numbers. exp makes them
   positive, their sum scales them to 1: p_i = exp(x_i) / sum(exp(x)) = exp(x_i - lse), where
   lse = log(sum(exp(x))). The operator computes lse on its way, so any loss gives it back.
""")
check("softmax of [0.1, 0.9, 3.0]", softmax(vector(0.1, 0.9, 3.0)), "0.0467 0.1040 0.8493")
check("softmax of [0.1, 0.9, 4.0]", softmax(vector(0.1, 0.9, 4.0)), "0.0190 0.0423 0.9387")
five = softmax(vector(3, 5.1, 2, 0.5, 0.1))
check("softmax of [3, 5.1, 2, 0.5, 0.1]", five, "0.1034 0.8444 0.0380 0.0085 0.0057")
check("which sum to", five.sum(), "1.0000")

say("""
2. Large scores do no harm.
   exp(1000) is more than a float can hold. But softmax depends on the differences of scores alone,
   and those are what the operator gives to exp, none so large that it overflows.
""")
large = vector(1000, 1001, 1002)
check("softmax of [1000, 1001, 1002], naively", large.exp() / large.exp().sum(), "nan nan nan")
check("softmax of [1000, 1001, 1002], from the operator", softmax(large), "0.0900 0.2447 0.6652")
check("softmax of [0, 1, 2]", softmax(vector(0, 1, 2)), "0.0900 0.2447 0.6652")

say("""
3. Cross entropy says how bad a guess is.
   Let y be 1 for the true class and 0 elsewhere (one-hot). Cross entropy is -sum(y * log p): minus
   the log of the probability given to the truth. Sure and right: near 0. Sure and wrong: large.
   The operator wants logits, and log p are logits whose softmax is p.
""")
for hot, p, expected in (
    ((1, 0, 0), (0.7, 0.2, 0.1), "0.3567"),
    ((1, 0, 0), (0.1, 0.3, 0.6), "2.3026"),
):
    loss = fused_ce.cross_entropy(vector(*p).log(), vector(*hot))
    check(f"y = {hot}, p = {p}", loss, expected)
print("   Some texts also divide by the number of classes; PyTorch does not.")
for hot, p, expected in (
    ((0, 0, 1), (0.1, 0.1, 0.8), "0.0743812"),
    ((0, 0, 1), (0.8, 0.1, 0.1), "0.7675284"),
):
    loss = fused_ce.cross_entropy(vector(*p).log(), vector(*hot)) / 3
    check(f"y = {hot}, p = {p}, divided by 3", loss, expected)

say("""
4. In practice: logits as they come, and the index of the true class.
   Softmax and the log are inside the loss, and y is an integer: loss = lse - x_y.
""")
for index, x, expected in (
    (2, (1.0, 1.1, 2.5), "0.3851"),  # 0.38508, which some texts cut to 0.3850
    (2, (3.2, 0.2, 0.9), "2.4398"),
    (0, (7.0, 0.2, 0.1), "0.0021"),
    (0, (1.0, 3.0, 6.0), "5.0550"),
):
    loss = fused_ce.cross_entropy(vector(*x).unsqueeze(0), torch.tensor([index]))
    check(f"y = [{index}], logits = {list(x)}", loss, expected)
print("   Of several samples the loss is the mean. A prediction is the class of the largest logit.")
y = torch.tensor([2, 1, 0])
good = torch.stack([vector(1.0, 1.1, 2.5), vector(1.0, 3.1, 0.5), vector(2.1, 0.1, 0.5)])
bad = torch.stack([vector(3.2, 0.2, 0.9), vector(3.2, 0.2, 0.9), vector(0.2, 3.2, 0.1)])
for name, logits, expected, classes in (
    ("good", good, "0.2851", "2 1 0"),
    ("bad", bad, "2.8901", "0 0 1"),
):
    loss = fused_ce.CrossEntropyLoss()(logits, y)
    check(f"y = [2, 1, 0], {name} guesses: loss", loss, expected)
    check("the same from torch.nn.CrossEntropyLoss", nn.CrossEntropyLoss()(logits, y), expected)
    torch.testing.assert_close(loss, nn.CrossEntropyLoss()(logits, y))
    check("predictions", logits.argmax(1), classes)

say("""
5. Mistake one: softmax before the loss.
   The loss applies softmax itself. Given probabilities, it takes them for logits between 0 and 1,
   and those say little: even the best guess, (0, 0, 1), costs log(1 + 2/e). Nothing fails; the
   network learns slowly, and its loss never comes near 0.
""")
sure, truth = vector(0, 0, 20), torch.tensor(2)
check("logits [0, 0, 20], y = 2", fused_ce.cross_entropy(sure, truth), "0.0000")
check("their softmax in place of them", fused_ce.cross_entropy(softmax(sure), truth), "0.5514")

say("""
6. Mistake two: one-hot integers as the target.
   A target is either the class index, an integer, or a probability for each class, floats. Integers
   of the shape of the logits are neither, and raise an error:
""")
one_hot = nn.functional.one_hot(y)
try:
    fused_ce.cross_entropy(good, one_hot)
except RuntimeError as error:
    print(f"     {type(error).__name__}: {str(error).splitlines()[0]}")
else:
    raise SystemExit("expected a RuntimeError")
print("   Either give the index, or make probabilities of it.")
check("one_hot.argmax(1)", fused_ce.cross_entropy(good, one_hot.argmax(1)), "0.2851")
check("one_hot.double()", fused_ce.cross_entropy(good, one_hot.double()), "0.2851")
print("\nEvery number is as expected.")
