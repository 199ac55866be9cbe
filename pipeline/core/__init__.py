"""What knows of no experiment: errors, files, devices, ranks, random streams, values, data sets."""
