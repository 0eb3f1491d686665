"""Weights that are fetched from a hub: where it does not answer, that is found out at once, and its cache is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


@contextmanager
def fetching(wanted: bool = True) -> Iterator[None]:
    """What fetches pre-trained weights runs in: timm and segmentation-models-pytorch get them by huggingface_hub.

    Without a network that one asks for each of several files six times, for a minute. So one request goes ahead, with
    its own limit of time (HF_HUB_ETAG_TIMEOUT, 10 s unless set) and through the same proxies. If it is answered,
    however late, nothing is changed; if not, the cache alone is asked.

    Args:
        wanted: False: nothing is to be fetched.

    Raises:
        ConnectionError: the hub does not answer, and its cache has not what is wanted.
    """
    if not wanted:
        yield
        return
    from huggingface_hub import constants, errors

    offline = constants.HF_HUB_OFFLINE
    if not offline and _answers(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        host = urlsplit(constants.ENDPOINT).netloc
        reason = "HF_HUB_OFFLINE is set" if offline else f"{host} does not answer"
        raise ConnectionError(f"{reason}, and they are not in the cache {constants.HF_HUB_CACHE}") from None
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers(endpoint: str) -> bool:
    """Whether a request to the hub is answered, whatever with."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of requests or httpx, whichever the hub's version uses
        return False
    return True
