"""Faces of people, to be identified among others."""
