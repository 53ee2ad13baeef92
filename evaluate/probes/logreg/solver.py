"""Multinomial logistic regression by L-BFGS: scikit-learn on the CPU, torch on any device, one minimum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Solver = Literal["auto", "sklearn", "torch"]


@dataclass(frozen=True)
class Fit:
    """The minimiser of ½‖W‖² + C · Σ cross-entropy, W without the intercepts."""

    weight: NDArray[np.float64]
    """[K, D]; K is the number of classes, or 1 for two classes (then the logit of class 1 against 0)."""
    bias: NDArray[np.float64]
    """Intercepts, [K]."""
    iterations: int
    """Steps taken."""
    converged: bool
    """True if the gradient fell below the tolerance before the last allowed step."""

    def logits(self, features: Tensor) -> Tensor:
        """float64 [N, D] -> [N, C]."""
        weight, bias = (torch.from_numpy(array).to(features.device) for array in (self.weight, self.bias))
        return _two_columns(features @ weight.T + bias)


def fit_sklearn(features: NDArray[np.float64], labels: NDArray[np.int64], c: float, iterations: int, tol: float) -> Fit:
    """scikit-learn's LogisticRegression with its solver lbfgs."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=iterations, tol=tol)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        model.fit(features, labels)
    failed = any(issubclass(warning.category, ConvergenceWarning) for warning in raised)
    return Fit(model.coef_, model.intercept_, int(model.n_iter_.max()), not failed)


def fit_torch(features: Tensor, labels: Tensor, classes: int, c: float, iterations: int, tol: float) -> Fit:
    """The same minimum by torch's L-BFGS with a strong Wolfe line search, on the tensors' device.

    features float64 [N, D], labels int64 [N]. As in scikit-learn the objective is divided by C · N, the history is
    10 steps, the start is 0, and `tol` bounds the largest entry of the gradient.
    """
    count, width = features.shape
    columns = 1 if classes == 2 else classes
    parameters = torch.zeros(columns, width + 1, dtype=torch.float64, device=features.device)
    rows = torch.arange(count, device=features.device)
    decay = 1 / (c * count)

    def objective() -> Tensor:
        weight, bias = parameters[:, :width], parameters[:, width]
        log_p = _two_columns(features @ weight.T + bias).log_softmax(dim=1)
        error = log_p.exp()
        error[rows, labels] -= 1
        error = error[:, -columns:] / count
        parameters.grad = torch.cat([error.T @ features + decay * weight, error.sum(0)[:, None]], dim=1)
        return -log_p[rows, labels].mean() + 0.5 * decay * weight.square().sum()

    with torch.no_grad():
        taken, converged = _minimise(parameters, objective, iterations, tol)
    solution = parameters.cpu().numpy()
    return Fit(solution[:, :width].copy(), solution[:, width].copy(), taken, converged)


def _minimise(parameters: Tensor, objective: Callable[[], Tensor], iterations: int, tol: float) -> tuple[int, bool]:
    optimiser = torch.optim.LBFGS(
        [parameters],
        lr=1,
        max_iter=iterations,
        max_eval=20 * iterations,
        tolerance_grad=tol,
        tolerance_change=64 * torch.finfo(torch.float64).eps,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    optimiser.step(lambda: float(objective()))
    objective()
    assert parameters.grad is not None
    taken = int(optimiser.state[parameters]["n_iter"])
    return taken, taken < iterations or bool(parameters.grad.abs().max() <= tol)


def _two_columns(logits: Tensor) -> Tensor:
    """A single column is the logit of class 1 against class 0."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits
