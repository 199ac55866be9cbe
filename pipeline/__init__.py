"""Generalist and Generalist++: adversarial training by several experts, reproduced and taken further."""
