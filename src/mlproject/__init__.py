"""3D stroke lesion segmentation: MLflow-tracked experiments."""
