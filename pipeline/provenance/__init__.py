"""Where a result comes from: the code that made it, the commit, the machine, the versions."""
