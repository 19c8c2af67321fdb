"""Speed, measured side by side: what each command prints is kept in README.md."""
