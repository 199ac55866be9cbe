"""From the runs in MLflow to tables: collected, laid out, and written as LaTeX, CSV and Markdown."""
