"""The containerd shim: the container, for containerd, asleep or awake. Imports the standard library only."""
