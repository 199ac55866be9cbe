"""Prefect: the ablation grid and the search as flows. This is the only package that imports prefect.

`ablation-grid` submits every experiment that MLflow does not have as a run of the deployment `experiment`, so that any
worker on any machine takes it. It waits, submits again what a dying worker left, and says in the end what came of it.
"""

from pipeline.core.surroundings import settle

settle()  # a worker that a person has started has not
