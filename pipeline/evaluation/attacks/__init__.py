"""Attacks that networks are tested with, one module each: what an entry of `evaluation.attacks` may be.

Adding one is adding a file: a module here (or anywhere, named by its dotted path) with one subclass of `SingleAttack`
or `EnsembleAttack` named `ATTACK`. Its pydantic fields are its options in `params.yaml`.
"""
