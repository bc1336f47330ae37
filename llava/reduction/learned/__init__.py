"""Modules that are trained, and the folders they are kept in: the only files of the reduction that touch disk and dtype."""
