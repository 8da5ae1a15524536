"""Hand-overs between nodes: who moves, to whom, exactly once. The bytes go from node to node."""

VERSION = "0.1.0"
