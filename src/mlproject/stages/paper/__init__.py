"""The claims of the paper, each as an experiment."""
