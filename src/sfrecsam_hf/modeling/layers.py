"""Layers that start at zero, so that a new path added to a pretrained network is at first not there.

Their type tells `_init_weights` what to do: transformers builds a model on the meta device and then initialises layer
by layer, so zeros written in a constructor, or by the module around the layer, would be lost.
"""

from torch import Tensor, nn


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero."""


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts at zero, as in ControlNet (Zhang et al., ICCV 2023)."""


class ReluConv2d(nn.Conv2d):
    """
    A convolution without bias that is followed by a ReLU; its kernels start with He's variance (He et al., ICCV 2015)
    and a mean of zero.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def kernel_means(self) -> Tensor:
        """The mean of each output channel's kernel, of shape `(out_channels, 1, 1, 1)`."""
        return self.weight.detach().mean((1, 2, 3), keepdim=True)
