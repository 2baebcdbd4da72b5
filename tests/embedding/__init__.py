"""Narrow networks at random positions of wide ones: slimming the wide one must find the narrow one again."""
