"""Admission: a pod that asks to sleep is made fit for it, or refused with a sentence; no other is touched."""

VERSION = "0.1.0"
