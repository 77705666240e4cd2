"""Contact sheets, overlays and their panels: pictures from pictures. May import errors and output."""
