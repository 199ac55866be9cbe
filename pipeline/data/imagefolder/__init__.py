"""Image sets that are too large for memory: ImageFolder trees, resized once into shards and streamed from them."""
