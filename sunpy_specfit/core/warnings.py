"""The warnings that the package gives."""

__all__ = ["SpecfitPluginWarning", "SpecfitWarning"]


class SpecfitWarning(UserWarning):
    """Base of every warning of this package: filter on it to treat them all alike."""


class SpecfitPluginWarning(SpecfitWarning):
    """A plugin could not be loaded, or not under the name it asked for; everything else works."""
