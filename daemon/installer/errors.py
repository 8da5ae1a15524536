"""What the installer stops for."""


class Refused(Exception):
    """The node stays as it was; the sentence says why, and what a person can do."""
