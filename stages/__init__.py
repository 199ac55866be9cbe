"""What `dvc.yaml` calls: thin commands around `pipeline`."""
