"""The code of the plugin, one subject to a module."""
