"""Puts Architect's node parts on a node, and takes them off again."""
