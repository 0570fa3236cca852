"""The commands as Typer sees them: options in, one call of what does the work, exit code out."""
