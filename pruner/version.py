"""The version of the package, which its exports carry."""

VERSION = "0.2.0"
