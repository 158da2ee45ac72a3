"""What stands behind the plugin, room by room."""
