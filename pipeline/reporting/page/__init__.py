"""The report: one HTML file with everything in it, which opens without a network."""
