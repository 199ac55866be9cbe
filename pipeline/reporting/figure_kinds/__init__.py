"""What an entry of `figures` in `params.yaml` may be, one module each.

Adding one is adding a file: a module here (or anywhere, named by its dotted path) with one subclass of `FigureSettings`
named `FIGURE`. Those here leave drawing to `pipeline/reporting/figures`, which imports matplotlib: checking
`params.yaml` does not.
"""
