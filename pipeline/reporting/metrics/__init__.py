"""What columns of tables and axes of figures may show besides the accuracy under each attack, one module each.

Adding one is adding a file: a module here (or anywhere, named by its dotted path) with one subclass of `Metric` named
`METRIC`.
"""
