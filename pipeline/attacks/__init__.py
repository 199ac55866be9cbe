"""Attacks that training and checks use. Evaluation's AutoAttack is its authors' package (`pipeline.evaluation`)."""
