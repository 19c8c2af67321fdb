"""Tables of numbers and categories: in memory, or larger than it."""
