"""What an entry of `figures` in `params.yaml` may be, one module each: its options, and how it is drawn.

Adding one is adding a file: a module here (or anywhere, named by its dotted path) with one subclass of `FigureSettings`
named `FIGURE`. Every stage checks `params.yaml`, so what takes long to import is imported where it draws.
"""
