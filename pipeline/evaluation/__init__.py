"""Verdicts: for every test image and every attack, the class that the model predicts; all numbers derive from them."""
