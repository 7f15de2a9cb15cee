"""What several test files need: made models, files and pages."""
