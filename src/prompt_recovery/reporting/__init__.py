"""Reports of evaluations and comparisons: tables, charts, Markdown and HTML."""
