"""Dependencies that not every installation has: the extras of ``pyproject.toml``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from wsss.errors import InputError

EXTRAS: dict[str, tuple[str, ...]] = {
    "wsss": ("h5py", "jinja2", "matplotlib", "scipy", "sklearn"),
    "cnnseg": ("segmentation_models_pytorch",),
    "explorer": ("fastapi", "gradio", "skimage", "uvicorn"),
    "export": ("onnx", "onnxruntime", "onnxscript", "skimage"),
}
"""Extra -> the modules that it brings, and that are imported inside `extra` alone."""


class MissingExtraError(InputError, ImportError):
    """What was asked for needs an extra that is not installed; the message says which."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """What imports of an extra stand in: where it is not installed, the error says how to install it.

    >>> with extra("wsss"):
    ...     import no_such_module
    Traceback (most recent call last):
    wsss.extras.MissingExtraError: no_such_module is not installed: pip install 'relseg[wsss]'

    Raises:
        MissingExtraError: a module is not there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(_line((error.name or "a module",), name)) from None


def need(*names: str) -> None:
    """What a command begins with that comes to these extras late, when its work would be lost.

    Raises:
        MissingExtraError: one is not installed.
    """
    for name in names:
        missing = tuple(module for module in EXTRAS[name] if find_spec(module) is None)
        if missing:
            raise MissingExtraError(_line(missing, name))


def _line(modules: tuple[str, ...], name: str) -> str:
    verb = "is" if len(modules) == 1 else "are"
    return f"{', '.join(modules)} {verb} not installed: pip install 'relseg[{name}]'"
