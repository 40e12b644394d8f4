"""Optuna searches."""
