"""Networks: timm backbones for any number of channels, and registered ones."""
