"""The version, where even the pure layers can read it."""

VERSION = "0.1.0"
