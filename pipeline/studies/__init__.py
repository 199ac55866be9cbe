"""Many experiments from one file: the cells of the ablation grid, the trials of the search."""
