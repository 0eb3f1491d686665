"""Encoder-decoder networks to compare with: U-Net, multi-task U-Net, and a U-Net without skip connections."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from wsss.backbones import strides_first
from wsss.errors import InputError, did_you_mean
from wsss.extras import extra
from wsss.weights import fitting
from wsss.words import counted

with extra("cnnseg"):
    from segmentation_models_pytorch import Unet
    from segmentation_models_pytorch.base import SegmentationHead
    from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
    from segmentation_models_pytorch.encoders import get_encoder

WIDTHS = (256, 128, 64, 32, 16)
"""Channels of the decoder's blocks, the ones of segmentation-models-pytorch."""

VERSION_1 = "_v1"
"""Ending of the names of ResNets whose blocks have their stride in the first 1x1 convolution."""

ENCODERS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *(f"{name}{VERSION_1}" for name in ("resnet50", "resnet101", "resnet152")),
    *("vgg16", "vgg16_bn"),
)
"""CNNs that can be the encoder of a baseline."""

_HEADS = ("fc.", "classifier.", "pre_logits.", "head.")
"""Where torchvision and timm keep what follows the last feature map."""


class Baseline(nn.Module):
    """An encoder, a decoder with free weights, and a 3x3 convolution that gives the class scores of each pixel.

    ``network(images, decode=None)`` gives (logits (B, C+1) or None, maps (B', C+1, H, W) or None), float32, of
    normalised images (B, 3, H, W) of any size; maps of the first `decode` images, of all if not given.
    """

    segments = True

    def __init__(
        self, encoder: nn.Module, decoder: UnetDecoder, head: nn.Module, classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = encoder, decoder, head
        self.classification_head = classifier
        # ResNets round the sides of their maps up, so that up-sampling by nearest pixel to the next map's size is a
        # doubling with the rest cut off. VGGs round down: their images are filled up, or borders would be lost.
        self.multiple = 1 if hasattr(encoder, "layer4") else 32

    @property
    def classifies(self) -> bool:
        return self.classification_head is not None

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor | None, Tensor | None]:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        features = self.encoder(padded)
        logits = None if self.classification_head is None else self.classification_head(features[-1]).float()
        if decode == 0:
            return logits, None
        maps = self.segmentation_head(self.decode([level[:decode] for level in features]))
        return logits, maps[..., :height, :width].float()

    def decode(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the encoder, from the largest to the smallest, to the decoder's (B, 16, H, W)."""
        return self.decoder(features)


class UNet(Baseline):
    """U-Net (Ronneberger 2015) of segmentation-models-pytorch, with or without a classifier on its bottleneck."""


class FCN(Baseline):
    """The decoder of the U-Net without skip connections: convolutions, ReLUs and nearest neighbour up-sampling."""

    def decode(self, features: list[Tensor]) -> Tensor:
        x = self.decoder.center(features[-1])
        for block, level in zip(self.decoder.blocks, features[-2::-1], strict=True):
            x = block(x, *level.shape[-2:])
        return x


def create_unet(architecture: str, num_outputs: int, classifier: bool = False) -> UNet:
    """A U-Net on a ResNet or VGG, weights at random.

    Args:
        architecture: one of `ENCODERS`; a tag of timm after a dot is passed over.
        num_outputs: C + 1.
        classifier: Yu et al.'s multi-task U-Net: average pooling and a linear layer on the bottleneck.

    Raises InputError if no encoder of that name is known.
    """
    name, version_1 = _encoder_name(architecture)
    aux = {"classes": num_outputs, "pooling": "avg", "dropout": None} if classifier else None
    network = Unet(name, encoder_weights=None, classes=num_outputs, decoder_channels=WIDTHS, aux_params=aux)
    if version_1:
        strides_first(network.encoder)
    return UNet(network.encoder, network.decoder, network.segmentation_head, network.classification_head)


def create_fcn(architecture: str, num_outputs: int) -> FCN:
    """Yu et al.'s FCN (table 3) on a ResNet or VGG, weights at random; parameters as in `create_unet`.

    One branch for all classes, as the paper has it, so that none of the classifier's class weights are in it.
    """
    name, version_1 = _encoder_name(architecture)
    encoder = get_encoder(name, weights=None)
    if version_1:
        strides_first(encoder)
    no_skips = [*(0 for _ in WIDTHS), encoder.out_channels[-1]]
    decoder = UnetDecoder(no_skips, WIDTHS, n_blocks=len(WIDTHS), add_center_block=name.startswith("vgg"))
    head = SegmentationHead(WIDTHS[-1], num_outputs)
    initialize_decoder(decoder)
    initialize_head(head)
    return FCN(encoder, decoder, head)


def load_encoder(network: Baseline, state: Mapping[str, Tensor], *, source: str = "weights", head: bool = True) -> bool:
    """Take the encoder's weights from a ResNet or VGG classifier of torchvision or timm.

    Args:
        source: option and file, for messages.
        head: the multi-task U-Net's linear layer takes the classifier's ``fc`` as well, which then has to fit. Weights
            of ImageNet have other classes: False. A VGG's fully connected layers have no place in it: never taken.

    Returns whether the linear layer was taken too; otherwise it stays as it is.

    Raises InputError if the weights are of another architecture.
    """
    own = network.encoder.state_dict()
    taken = fitting(state, own, source=source, of="network of this architecture")
    strange = [name for name in state if name not in own and not name.startswith(_HEADS)]
    if strange:
        raise InputError(
            f"{source}: not the weights of a network of this architecture: {counted(len(strange), 'tensor')} too many, "
            f"first {strange[0]}"
        )
    linear = None
    if head and network.classification_head is not None and network.multiple == 1:
        (linear,) = (module for module in network.classification_head if isinstance(module, nn.Linear))
        prefixed = {f"fc.{name}": tensor for name, tensor in linear.state_dict().items()}
        fc = fitting(state, prefixed, source=source, of=f"classifier of {linear.out_features} outputs")
        linear.load_state_dict({name.removeprefix("fc."): tensor for name, tensor in fc.items()})
    network.encoder.load_state_dict(taken, strict=False)  # counters of batch norm may be missing
    return linear is not None


def _encoder_name(architecture: str) -> tuple[str, bool]:
    """segmentation-models-pytorch's name, and whether the strides are to be moved."""
    name = architecture.split(".")[0]
    if name not in ENCODERS:
        raise InputError(f"`architecture` {architecture}: no U-Net on it; {did_you_mean(name, ENCODERS)}")
    return name.removesuffix(VERSION_1), name.endswith(VERSION_1)
