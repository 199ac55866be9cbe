"""What `mixture` of a method may be, one module each.

Adding one is adding a file: a module here (or anywhere, named by its dotted path) with one subclass of
`MixtureSettings` named `MIXTURE`. The classes that mix those here are in `pipeline/training`; settings are checked
without them.
"""
