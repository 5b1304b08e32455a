"""Models on hubs. May import everything else of the package."""
