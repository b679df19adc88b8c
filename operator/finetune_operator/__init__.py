"""The operator: turns FineTuneJob resources of a Kubernetes cluster into Ray clusters that run the trainer."""
