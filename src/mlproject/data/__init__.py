"""From files to patches."""
