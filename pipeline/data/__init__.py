"""Image sets as uint8 tensors, and their augmentation."""
