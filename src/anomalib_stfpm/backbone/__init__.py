"""The networks: feature pyramids of timm backbones, their weights, and the distance between two of them."""
