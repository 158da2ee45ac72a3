"""The plugin's packages and modules; docs/development.md lists them."""
