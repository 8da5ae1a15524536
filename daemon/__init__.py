"""architectd: decides, on one node, when containers sleep and when they wake."""

VERSION = "0.1.0"
