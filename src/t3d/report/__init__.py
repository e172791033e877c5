"""Show results: plots and pages."""
