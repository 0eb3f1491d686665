"""What an explanation of a CNN costs, in forward passes, beside the same method of other packages in the same run.

    python benchmarks/peers.py [--model resnet50] [--batch 1 32] [--repeats 7] [--only lrp gradcam]

Other packages: zennit, captum, pytorch-grad-cam (`pip install -e ".[oracles]"`); those that are absent are left out.
The unit is one plain forward pass of the same model and batch (evaluation mode, no graph). Passes and explanations run
in turn in one process, all warm; medians of the ratios. Weights are random: the time does not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

import cnnseg

Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet50", help="torchvision's name")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", help="methods")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model = torchvision.models.get_model(options.model, weights=None).eval().to(options.device)
    print(f"{options.model}, {options.device}, float32, {torch.get_num_threads()} threads, median of {options.repeats}")
    for batch in options.batch:
        images = torch.randn(batch, 3, 224, 224, device=options.device)
        targets = torch.arange(batch, device=options.device) % 1000
        for method, packages in cases(model, images, targets).items():
            if options.only and method.split(",")[0] not in options.only:
                continue
            ratios = compare(model, images, packages, options.repeats, options.device)
            row = "   ".join(f"{name} {ratio:6.2f}" for name, ratio in ratios.items())
            print(f"batch {batch:3d}  {method:28s} {row}", flush=True)


def cases(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, dict[str, Work]]:
    """Method -> package -> one explanation of the batch."""
    ours = lambda method, **options: lambda: cnnseg.explain(model, images, targets, method, **options)  # noqa: E731
    found: dict[str, dict[str, Work]] = {
        "lrp, epsilon_plus": {"relseg": ours("lrp", rules="epsilon_plus")},
        "lrp, epsilon_plus_flat": {"relseg": ours("lrp", rules="epsilon_plus_flat")},
        "lrp, epsilon_alpha2_beta1": {"relseg": ours("lrp", rules="epsilon_alpha2_beta1")},
        "lrp, epsilon_gamma_box": {"relseg": ours("lrp", rules="epsilon_gamma_box")},
        "lrp, zero": {"relseg": ours("lrp", rules="zero")},
        "input_x_gradient": {"relseg": ours("input_x_gradient")},
        "integrated_gradients, 20": {"relseg": ours("integrated_gradients")},
        "gradcam": {"relseg": ours("gradcam")},
        "layercam": {"relseg": ours("layercam")},
        "cam": {"relseg": ours("cam")},
    }
    theirs = copy.deepcopy(model)  # some leave hooks on it
    for add in (_zennit, _captum, _grad_cam):
        try:
            add(found, theirs, images, targets)
        except ImportError as error:
            print(f"({error.name} is not installed)")
    return found


def _zennit(found: dict[str, dict[str, Work]], model: nn.Module, images: Tensor, targets: Tensor) -> None:
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    canonizer = ResNetCanonizer() if isinstance(model, torchvision.models.ResNet) else VGGCanonizer()
    low, high = (images.amin((2, 3), keepdim=True)[:1], images.amax((2, 3), keepdim=True)[:1])
    hot = nn.functional.one_hot(targets, 1000).to(images)
    composites = {
        "epsilon_plus": EpsilonPlus(canonizers=[canonizer]),
        "epsilon_plus_flat": EpsilonPlusFlat(canonizers=[canonizer]),
        "epsilon_alpha2_beta1": EpsilonAlpha2Beta1(canonizers=[canonizer]),
        "epsilon_gamma_box": EpsilonGammaBox(low=low, high=high, canonizers=[canonizer]),
    }

    def work(composite: object) -> Work:
        def explain() -> Tensor:
            with Gradient(model, composite) as attributor:
                return attributor(images, hot)[1].sum(1)

        return explain

    for name, composite in composites.items():
        found[f"lrp, {name}"]["zennit"] = work(composite)


def _captum(found: dict[str, dict[str, Work]], model: nn.Module, images: Tensor, targets: Tensor) -> None:
    from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam

    gradients, integrated, layer = InputXGradient(model), IntegratedGradients(model), LayerGradCam(model, _last(model))
    found["input_x_gradient"]["captum"] = lambda: gradients.attribute(images, target=targets)
    found["integrated_gradients, 20"]["captum"] = lambda: integrated.attribute(
        images, target=targets, n_steps=20, method="gausslegendre", internal_batch_size=len(images)
    )
    found["gradcam"]["captum"] = lambda: layer.attribute(images, target=targets, relu_attributions=True)


def _grad_cam(found: dict[str, dict[str, Work]], model: nn.Module, images: Tensor, targets: Tensor) -> None:
    from pytorch_grad_cam import GradCAM, LayerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    wanted = [ClassifierOutputTarget(int(target)) for target in targets]
    for name, make in (("gradcam", GradCAM), ("layercam", LayerCAM)):
        cam = make(model=model, target_layers=[_last(model)])
        found[name]["pytorch-grad-cam"] = lambda cam=cam: cam(input_tensor=images, targets=wanted)


def _last(model: nn.Module) -> nn.Module:
    return model.layer4 if hasattr(model, "layer4") else model.features


def compare(model: nn.Module, images: Tensor, packages: dict[str, Work], repeats: int, device: str) -> dict[str, float]:
    """Median cost of each package's explanation in forward passes."""

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    for work in (forward, *packages.values()):
        work()
    ratios: dict[str, list[float]] = {name: [] for name in packages}
    for _ in range(repeats):
        for name, work in packages.items():
            plain = seconds(forward, device)
            ratios[name].append(seconds(work, device) / plain)
    return {name: statistics.median(found) for name, found in ratios.items()}


def seconds(work: Work, device: str) -> float:
    """How long it takes."""
    if device != "cpu":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
