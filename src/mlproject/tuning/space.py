"""What the search over the postprocessing tries: a grid of cut-offs, and ranges for the CRF."""

from typing import Any

import optuna

from mlproject.prediction.crf import CrfSettings

# Every pair of these is tried with every CRF, and without one.
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
MIN_LESION_ML = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


def start_parameters() -> dict[str, Any]:
    """The first CRF to try: the defaults, which are a good start."""
    start = CrfSettings()
    return {
        "theta_gamma_mm": start.theta_gamma_mm,
        "theta_alpha_mm": start.theta_alpha_mm,
        "theta_beta": start.theta_beta,
        "weight_gaussian": start.weight_gaussian,
        "weight_bilateral": start.weight_bilateral,
        "iterations": start.iterations,
    }


def suggest_crf(trial: optuna.Trial) -> CrfSettings:
    """The CRF of one trial.

    The ranges are narrower than what CrfSettings allows: a small theta_beta is slow, and a large
    theta_alpha_mm with a large theta_beta joins voxels that have nothing in common.
    """
    return CrfSettings(
        theta_gamma_mm=trial.suggest_float("theta_gamma_mm", 0.5, 8.0, log=True),
        theta_alpha_mm=trial.suggest_float("theta_alpha_mm", 3.0, 60.0, log=True),
        theta_beta=trial.suggest_float("theta_beta", 0.2, 2.0, log=True),
        weight_gaussian=trial.suggest_float("weight_gaussian", 0.0, 5.0),
        weight_bilateral=trial.suggest_float("weight_bilateral", 0.0, 8.0),
        iterations=trial.suggest_int("iterations", 1, 8),
    )
