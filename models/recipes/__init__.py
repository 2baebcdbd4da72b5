"""Training recipes of the papers: reference networks, their data, and how they are trained. Needs torch."""
