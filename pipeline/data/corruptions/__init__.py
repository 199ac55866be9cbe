"""Common corruptions (CIFAR-C) and perturbation sequences (CIFAR-P): official files, and images of one's own."""
