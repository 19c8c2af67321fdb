"""Where work runs: a mesh of devices, several processes, and the watch on them."""
