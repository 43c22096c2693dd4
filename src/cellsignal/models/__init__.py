"""Networks: timm backbones for any number of channels, and the lab's LeNet. Start at
`backbones.build_model`.
"""
