"""How far a model with a merger is from the answers and from the same model with every token."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from llava.reduction.aggregate import normalise

from .forward import ForwardPass
from .settings import TrainingSettings


def losses(training: TrainingSettings, student: ForwardPass, teacher: ForwardPass | None) -> dict[str, Tensor]:
    """The weighted loss and its parts, means over the answers' tokens and, for the features, over the words.

    answer: cross-entropy. distillation: ``T**2 KL(teacher || student)`` of the distributions at temperature T; the factor
    keeps its gradients at one scale for every T (Hinton et al. 2015, https://arxiv.org/abs/1503.02531). feature: squared
    distance of the normalised hidden states of the words after the pictures.
    """
    parts = {"answer": F.cross_entropy(student.logits.float(), student.answers)}
    total = training.answer_weight * parts["answer"]
    if teacher is not None:
        temperature = training.distillation_temperature
        student_log, teacher_log = (
            (forward_pass.logits.float() / temperature).log_softmax(-1) for forward_pass in (student, teacher)
        )
        divergence = F.kl_div(student_log, teacher_log, log_target=True, reduction="batchmean")
        parts["distillation"] = temperature**2 * divergence
        total = total + training.distillation_weight * parts["distillation"]
        if training.feature_weight:
            parts["feature"] = F.mse_loss(normalise(student.words.float()), normalise(teacher.words.float()))
            total = total + training.feature_weight * parts["feature"]
    return {"loss": total, **parts}
