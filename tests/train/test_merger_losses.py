"""The losses of a merger's training, against hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch

from llava.train.merger.forward import ForwardPass
from llava.train.merger.losses import losses
from llava.train.merger.settings import TrainingSettings


def forward_pass(*logits: list[float]) -> ForwardPass:
    rows = torch.tensor(logits)
    return ForwardPass(rows, torch.zeros(len(rows), dtype=torch.long), torch.zeros(0, 1), [(len(rows), 0)])


def settings(**changes) -> TrainingSettings:
    return TrainingSettings(output="out", steps=1, **changes)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_distillation_is_the_divergence_at_a_temperature_times_its_square(temperature):
    """Two words, logits T ln 3 and 0 against 0 and 0: at T the teacher says 3/4, 1/4 and the student 1/2, 1/2.

    KL(teacher || student) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308, whatever T is; the loss is T**2 times that.
    """
    teacher, student = forward_pass([temperature * math.log(3), 0.0]), forward_pass([0.0, 0.0])
    parts = losses(settings(distillation_temperature=temperature, distillation_weight=0.5), student, teacher)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(parts["distillation"]) == pytest.approx(temperature**2 * divergence, rel=1e-5)
    assert float(parts["answer"]) == pytest.approx(math.log(2), rel=1e-5)
    assert float(parts["loss"]) == pytest.approx(math.log(2) + 0.5 * temperature**2 * divergence, rel=1e-5)


def test_the_divergence_is_a_mean_over_the_answers_tokens():
    teacher, student = forward_pass([math.log(9), 0.0], [0.0, 0.0]), forward_pass([0.0, 0.0], [0.0, 0.0])
    one = losses(settings(), forward_pass([0.0, 0.0]), forward_pass([math.log(9), 0.0]))["distillation"]
    both = losses(settings(), student, teacher)["distillation"]
    assert float(both) == pytest.approx(float(one) / 2, rel=1e-5)


def test_the_gradient_keeps_its_scale_at_every_temperature():
    """For small logits the gradient of T**2 KL is that of half the squared distance, which does not depend on T."""
    gradients = []
    for temperature in (2.0, 8.0):
        student, teacher = forward_pass([0.0, 0.0]), forward_pass([0.01, -0.01])
        student.logits.requires_grad_(True)
        losses(settings(distillation_temperature=temperature), student, teacher)["distillation"].backward()
        gradients.append(student.logits.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=0)
