"""Draw contact sheets and heat-map overlays. May import errors and output."""
