"""What MLflow knows of us: runs, the model registry, the served model."""
