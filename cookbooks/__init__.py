"""The cookbooks, and the program that executes them: ``python -m cookbooks.run``."""
